"""Who is calling: tenant and scopes come from the credentials, never from the request.

Keys of the configuration file are known by their digests. Keys made by CreateApiKey stand in Redis
and are believed for KEY_SECONDS after they were read; calls that outlast that are looked after by
`recheck`, so that a revoked key is worthless everywhere within ten seconds.
"""

import asyncio
import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from memoryd.config import ApiKey
from memoryd.detached import detached
from memoryd.errors import BadCredentials, MemorydError, StorageUnavailable
from memoryd.scopes import ALL_SCOPES, Scope
from memoryd.storage.api_keys import KeyRecord, key_id

DEFAULT_TENANT = "default"
KEY_SECONDS = 5.0
RECHECK_SECONDS = 2.5
_BEARER = "bearer "


class StoredKeys(Protocol):
    """Where keys are looked up; `ApiKeyStore` is one."""

    async def get(self, identity: str) -> KeyRecord | None: ...


@dataclass(frozen=True)
class Caller:
    """key_id: public part of a stored key; "" for a key of the configuration file, or none."""

    tenant: str
    scopes: frozenset[Scope]
    key_id: str = ""


class Authenticator:
    """Knows the deployment's keys. Without any in the configuration everybody is one tenant.

    max_age: seconds for which what Redis said of a key is believed. clock: seconds, monotonic.
    """

    def __init__(
        self,
        keys: Sequence[ApiKey],
        stored: StoredKeys,
        *,
        max_age: float = KEY_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._configured = {
            key.sha256: Caller(key.tenant, frozenset(Scope(scope) for scope in key.scopes))
            for key in keys
        }
        self._stored = stored
        self._max_age = max_age
        self._clock = clock
        self._now_ms = now_ms
        self._believed: dict[str, tuple[float, KeyRecord]] = {}
        self._users: dict[str, set[asyncio.Task[Any]]] = {}
        self._cut_off: set[asyncio.Task[Any]] = set()

    async def caller(self, metadata: Mapping[str, str]) -> Caller:
        """Who sent the metadata. Raises BadCredentials, StorageUnavailable."""
        if not self._configured:
            return Caller(DEFAULT_TENANT, ALL_SCOPES)
        header = metadata.get("authorization", "")
        if not header.lower().startswith(_BEARER):
            raise BadCredentials("this daemon asks for a key: send `authorization: Bearer <key>`")
        key = header[len(_BEARER) :].strip()
        # Found by its digest, so that the time it takes says nothing about a key.
        configured = self._configured.get(hashlib.sha256(key.encode()).hexdigest())
        if configured is not None:
            return configured
        identity = key_id(key)
        record = await self._record(identity) if identity is not None else None
        if record is None or not record.opens(key, self._now_ms()):
            raise BadCredentials("the key is not known here")
        return Caller(record.tenant, frozenset(record.scopes), record.id)

    async def _record(self, identity: str) -> KeyRecord | None:
        asked = self._clock()  # what Redis says is as old as the question
        read_at, record = self._believed.get(identity, (float("-inf"), None))
        if asked - read_at < self._max_age:
            return record
        # Shielded: a command that a caller breaks off would leave its reply on the connection.
        record = await detached(self._stored.get(identity))
        if record is None:
            # Unknown ids are not remembered: anybody can make up any number of them.
            self._believed.pop(identity, None)
        else:
            self._believed[identity] = (asked, record)
        return record

    def forget(self, identity: str) -> None:
        """What was read of the key is out of date."""
        self._believed.pop(identity, None)

    @contextmanager
    def call_by(self, caller: Caller) -> Iterator[None]:
        """Has `recheck` end the running task when the caller's key is revoked meanwhile."""
        task = asyncio.current_task()
        if not caller.key_id or task is None:
            yield
            return
        users = self._users.setdefault(caller.key_id, set())
        users.add(task)
        try:
            yield
        finally:
            users.discard(task)
            if not users:
                self._users.pop(caller.key_id, None)

    async def recheck(self) -> None:
        """Ends the calls whose key has been revoked or has expired since they began."""
        for identity in list(self._users):
            try:
                record = await self._record(identity)
            except StorageUnavailable:
                continue
            expired = record is not None and 0 < record.expires_ms <= self._now_ms()
            if record is None or expired:
                for task in self._users.get(identity, set()).copy():
                    self._cut_off.add(task)
                    task.add_done_callback(self._cut_off.discard)
                    task.cancel()

    def why_cut_off(self) -> MemorydError | None:
        """What the running task is to tell its caller where `recheck` ended it."""
        if asyncio.current_task() not in self._cut_off:
            return None
        return BadCredentials("the key was revoked while the call ran")
