"""Which server holds a key: one for all keys, a cluster's node by slot, or Sentinel's primary.

Nothing here connects: `nodes.py` asks the servers, hands their answers in, and finds out from
`node()` where to send a command. redis-py's own cluster clients are not used, because a write and
its WAIT must go over one connection, and because they resend writes and pause by rules of their
own (their asyncio client ignores the back-off it is given); a script on one key needs no more than
this map.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import SplitResult, urlsplit

from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from memoryd.errors import BadArgument

DEFAULT_PORT = 6379
SENTINEL_PORT = 26379

SCHEMES = (
    "redis",
    "rediss",
    "unix",
    "redis-cluster",
    "rediss-cluster",
    "redis-sentinel",
    "rediss-sentinel",
)
"""The forms of a storage URL; those that begin with `rediss` use TLS."""


class Topology(Protocol):
    """stale: the map must be asked for before it is used again."""

    stale: bool

    def node(self, key: str) -> str | None:
        """Return the URL of the server that holds a key, None if none is known to."""

    def primaries(self) -> list[str]:
        """Return the URLs of all servers that take writes."""

    def replicas(self) -> list[str]:
        """Return the URLs of the known replicas."""

    def sources(self) -> list[str]:
        """Return the URLs of the servers that can be asked for the map."""

    def question(self) -> tuple[str, ...]:
        """Return the command that asks a source for the map."""

    def learn(self, answer: Any, source: str) -> bool:
        """Take a source's answer in; False if the source knows nothing."""

    def address(self, host: str, port: int) -> str:
        """Return the URL of a server that another one named."""


class Alone:
    """One server holds everything; there is nothing to learn."""

    def __init__(self, url: str) -> None:
        self.stale = False
        self._url = url

    def node(self, key: str) -> str | None:  # noqa: ARG002
        return self._url

    def primaries(self) -> list[str]:
        return [self._url]

    def replicas(self) -> list[str]:
        return []

    def sources(self) -> list[str]:
        return [self._url]

    def question(self) -> tuple[str, ...]:
        return ("PING",)

    def learn(self, answer: Any, source: str) -> bool:  # noqa: ARG002
        return True

    def address(self, host: str, port: int) -> str:  # noqa: ARG002
        return self._url


@dataclass(frozen=True, slots=True)
class _Form:
    """What the URLs of all nodes have in common, and the nodes that the person named."""

    scheme: str
    login: str
    query: str
    seeds: tuple[tuple[str, int], ...]

    @classmethod
    def of(cls, url: str, default_port: int) -> "_Form":
        parts = urlsplit(url)
        login, at, hosts = parts.netloc.rpartition("@")
        seeds = tuple(_host_and_port(host, default_port, url) for host in hosts.split(","))
        return cls(parts.scheme.partition("-")[0], login + at, parts.query, seeds)

    def url(self, host: str, port: int, *, login: bool = True) -> str:
        shown = f"[{host}]" if ":" in host else host
        query = f"?{self.query}" if self.query else ""
        return f"{self.scheme}://{self.login if login else ''}{shown}:{port}{query}"


class Cluster:
    """A Redis or Valkey Cluster: CRC16 of a key's hash tag chooses among 16,384 slots.

    url: `redis-cluster://[user:password@]host[:port][,host[:port]..]`; any nodes of it will do.
    Source: the Redis Cluster specification.
    """

    def __init__(self, url: str) -> None:
        self.stale = True
        self._form = _Form.of(url, DEFAULT_PORT)
        self._slots: list[str | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
        self._replicas: list[str] = []

    def node(self, key: str) -> str | None:
        return self._slots[key_slot(key.encode())]

    def primaries(self) -> list[str]:
        return sorted({url for url in self._slots if url is not None})

    def replicas(self) -> list[str]:
        return list(self._replicas)

    def sources(self) -> list[str]:
        seeds = [self._form.url(host, port) for host, port in self._form.seeds]
        return list(dict.fromkeys([*self.primaries(), *self._replicas, *seeds]))

    def question(self) -> tuple[str, ...]:
        return ("CLUSTER", "SLOTS")

    def learn(self, answer: Any, source: str) -> bool:
        # A node that was never joined, or was forgotten, answers with an empty list.
        if not answer:
            return False
        slots: list[str | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
        replicas: set[str] = set()
        for first, last, primary, *others in answer:
            url = self._named(primary, source)
            slots[int(first) : int(last) + 1] = [url] * (int(last) - int(first) + 1)
            replicas.update(node for other in others if (node := self._named(other, source)))
        self._slots, self._replicas = slots, sorted(replicas)
        return True

    def address(self, host: str, port: int) -> str:
        return self._form.url(host, port)

    def _named(self, node: Sequence[Any], source: str) -> str | None:
        """Return a node's URL; no host means the one that was asked, "?" an unknown one."""
        host = node[0].decode() if isinstance(node[0], bytes) else node[0] or ""
        if host == "?":
            return None
        return self._form.url(host or urlsplit(source).hostname or "", int(node[1]))


class Sentinel:
    """A primary that Sentinels watch over and replace.

    url: `redis-sentinel://[user:password@]host[:port][,host[:port]..]/service`. The login is the
    data servers'; the Sentinels are asked without one. Source: the Redis Sentinel documentation.
    """

    def __init__(self, url: str) -> None:
        self.stale = True
        self._form = _Form.of(url, SENTINEL_PORT)
        self._service = urlsplit(url).path.strip("/")
        self._primary: str | None = None
        if not self._service:
            raise BadArgument(
                "The Sentinel URL names no service: write "
                "redis-sentinel://host:26379,host:26379/mymaster."
            )

    def node(self, key: str) -> str | None:  # noqa: ARG002
        return self._primary

    def primaries(self) -> list[str]:
        return [] if self._primary is None else [self._primary]

    def replicas(self) -> list[str]:
        return []

    def sources(self) -> list[str]:
        return [self._form.url(host, port, login=False) for host, port in self._form.seeds]

    def question(self) -> tuple[str, ...]:
        return ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._service)

    def learn(self, answer: Any, source: str) -> bool:  # noqa: ARG002
        if answer is None:
            return False
        host, port = (part.decode() if isinstance(part, bytes) else part for part in answer)
        self._primary = self._form.url(host, int(port))
        return True

    def address(self, host: str, port: int) -> str:
        return self._form.url(host, port)


def topology(url: str) -> Topology:
    """Choose by the URL's scheme. Raises BadArgument for a URL that names no server or service."""
    scheme = urlsplit(url).scheme
    if scheme not in SCHEMES:
        raise BadArgument(
            f"{scheme or 'no'} scheme names no Redis: begin the URL with one of "
            f"{', '.join(f'{known}://' for known in SCHEMES)}."
        )
    kind = scheme.partition("-")[2]
    if kind == "cluster":
        return Cluster(url)
    if kind == "sentinel":
        return Sentinel(url)
    return Alone(url)


def is_cluster(url: str) -> bool:
    return urlsplit(url).scheme.endswith("-cluster")


def describe(url: str) -> str:
    """Return the server's address without credentials, for logs and sentences."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return f"unix://{parts.path}"
    if "-" in parts.scheme:
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    return f"{parts.scheme}://{parts.hostname}:{parts.port or DEFAULT_PORT}"


def _host_and_port(text: str, default_port: int, url: str) -> tuple[str, int]:
    try:
        parts = SplitResult("", text, "", "", "")
        host, port = parts.hostname, parts.port or default_port
    except ValueError:
        host, port = None, 0
    if not host:
        raise BadArgument(
            f"{describe(url)} names no server in {text!r}: write host:port, several with commas "
            "between them."
        )
    return host, port
