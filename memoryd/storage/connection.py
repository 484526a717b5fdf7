"""How we connect, and what the server's errors mean to us.

redis-py's own retries are off: they resend commands that are not idempotent, and a write that
timed out may still have been applied. Our scripts are idempotent, so the callers here send the
same operation until a definite answer comes or the deadline passes.
"""

import time
from typing import Any

import redis
import redis.asyncio
from redis import exceptions
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.connection import PythonRespSerializer
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry

from memoryd.errors import MemorydError, StorageFull, StorageUnavailable
from memoryd.storage.errors import UnsuitableServer
from memoryd.storage.topology import describe

FIRST_DELAY = 0.02
MAX_DELAY = 0.5
"""Seconds between two tries: doubled from the first to the second."""


class NotReplicated(exceptions.RedisError):
    """The write was applied, but no replica confirmed it in time."""


_TRANSIENT = (
    NotReplicated,
    exceptions.ConnectionError,
    exceptions.TimeoutError,
    exceptions.ReadOnlyError,
    exceptions.MasterDownError,
    exceptions.ClusterDownError,
    exceptions.TryAgainError,
    exceptions.AskError,
    OSError,
)
_REFUSED = (
    exceptions.AuthenticationError,
    exceptions.AuthorizationError,
    exceptions.NoPermissionError,
)
_TRANSIENT_CODES = ("NOREPLICAS", "BUSY ", "UNBLOCKED")
_BETWEEN_NODES = "attempted to access a non local key"
"""Said of a script some of whose keys have gone to another node already."""
_NO_CLUSTER = "This instance has cluster support disabled"


def connect_async(url: str, *, socket_timeout: float, connections: int) -> redis.asyncio.Redis:
    """Make an asyncio client over a pool; who finds no free connection waits for one."""
    pool = redis.asyncio.BlockingConnectionPool.from_url(
        url,
        max_connections=connections,
        timeout=socket_timeout,
        socket_timeout=socket_timeout,
        socket_connect_timeout=socket_timeout,
        retry=AsyncRetry(NoBackoff(), 0),
        protocol=2,
        maint_notifications_config=MaintNotificationsConfig(enabled=False),
    )
    return redis.asyncio.Redis.from_pool(pool)


def connect_sync(url: str, *, socket_timeout: float) -> "redis.Redis":
    """Make a blocking client; its Python serialiser sends large values without a copy."""
    return redis.Redis.from_url(
        url,
        socket_timeout=socket_timeout,
        socket_connect_timeout=socket_timeout,
        retry=Retry(NoBackoff(), 0),
        protocol=2,
        maint_notifications_config=MaintNotificationsConfig(enabled=False),
        command_packer=PythonRespSerializer(6000, _encode),
    )


class Attempts:
    """The pauses and the end of one operation's tries.

    `failed(error)` returns the seconds to wait before the next try, or raises: StorageFull,
    UnsuitableServer (credentials, permissions), or StorageUnavailable once time is up.
    """

    def __init__(self, url: str, deadline: float) -> None:
        self._url = url
        self._deadline = deadline
        self._end = time.monotonic() + deadline
        self._delay = FIRST_DELAY
        self.failures = 0

    def failed(self, error: Exception) -> float:
        self.failures += 1
        final = _definite(error, describe(self._url))
        if final is not None:
            raise final from error
        delay, self._delay = self._delay, min(2 * self._delay, MAX_DELAY)
        if time.monotonic() + delay > self._end:
            raise StorageUnavailable(
                f"Redis at {describe(self._url)} gave no answer within {self._deadline:g} s "
                f"({_sentence(error)}): check that it runs and can be reached, then retry.",
                retry_after=1.0,
                server=describe(self._url),
            ) from error
        return delay


def _sentence(error: Exception) -> str:
    return str(error).strip().rstrip(".") or type(error).__name__


def _definite(error: Exception, server: str) -> MemorydError | None:
    """Return the error that no further try can change, None where another try may help."""
    text = _sentence(error)
    if isinstance(error, exceptions.OutOfMemoryError):
        return StorageFull(
            f"Redis at {server} is at its maxmemory: free memory there or raise maxmemory, then "
            "retry.",
            retry_after=5.0,
            server=server,
        )
    # redis-py hides a refused login that it met while connecting behind a ConnectionError.
    if isinstance(error, _REFUSED) or isinstance(error.__cause__, _REFUSED):
        return UnsuitableServer(
            f"Redis at {server} refuses us ({text}): check user and password in the URL, and that "
            "the user may run scripts and use keys ~md1:*.",
            server=server,
        )
    if text.startswith(_NO_CLUSTER):
        return UnsuitableServer(
            f"The server at {server} is no cluster: write redis:// in its URL in place of "
            "redis-cluster://.",
            server=server,
        )
    if (
        isinstance(error, _TRANSIENT)
        or text.startswith(_TRANSIENT_CODES)
        or (_BETWEEN_NODES in text.lower())
    ):
        return None
    return StorageUnavailable(
        f"Redis at {server} refused an operation ({text}): see its log.", server=server
    )


def _encode(value: Any) -> bytes | memoryview:
    if isinstance(value, bytes | memoryview):
        return value
    return str(value).encode()
