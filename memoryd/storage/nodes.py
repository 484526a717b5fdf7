"""Connections to the servers of a topology, made when first needed: for asyncio and for threads.

The operations' own loops (`Attempts`) pause and try again; in between they tell us the error, from
which follows whether the map of servers is still good.
"""

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING

from redis import exceptions

from memoryd.storage.connection import connect_async, connect_sync
from memoryd.storage.topology import Topology, topology

if TYPE_CHECKING:
    import redis
    import redis.asyncio


class _Map:
    """What both kinds share: the topology, and in which order its sources are asked."""

    def __init__(self, url: str) -> None:
        self.topology: Topology = topology(url)
        self._first: str | None = None
        self._silent: set[str] = set()

    def note(self, error: Exception) -> None:
        """Take in what a failed operation says about the map; without a map it says nothing."""
        if isinstance(error, exceptions.MovedError):
            # The new holder was named; it knows of the other slots that came with this one.
            self._first = self.topology.address(error.host, error.port) if error.host else None
        elif isinstance(error, exceptions.AskError | exceptions.TryAgainError):
            return
        self.topology.stale = True

    def _sources(self) -> Iterable[str]:
        sources = sorted(self.topology.sources(), key=self._silent.__contains__)
        return dict.fromkeys([self._first, *sources] if self._first else sources)

    def _answered(self, answer: object, source: str) -> bool:
        self._silent.discard(source)
        if not self.topology.learn(answer, source):
            return False
        self.topology.stale, self._first = False, None
        return True

    def _node(self, key: str) -> str:
        url = self.topology.node(key)
        if url is None:
            self.topology.stale = True
            raise exceptions.ClusterDownError("no node serves the slot")
        return url


class AsyncNodes(_Map):
    """asyncio clients by server. connections: the most for each server."""

    def __init__(self, url: str, *, socket_timeout: float, connections: int) -> None:
        super().__init__(url)
        self._socket_timeout = socket_timeout
        self._connections = connections
        self._clients: dict[str, redis.asyncio.Redis] = {}
        self._asking = asyncio.Lock()

    async def close(self) -> None:
        for client in self._clients.values():
            await client.aclose()

    async def url_of(self, key: str) -> str:
        """Return the URL of the server that holds a key. Raises redis-py's errors."""
        await self.refresh()
        return self._node(key)

    async def at(self, key: str) -> "redis.asyncio.Redis":
        """Return the client of the server that holds a key. Raises redis-py's errors."""
        return self.client(await self.url_of(key))

    def client(self, url: str) -> "redis.asyncio.Redis":
        if url not in self._clients:
            self._clients[url] = connect_async(
                url, socket_timeout=self._socket_timeout, connections=self._connections
            )
        return self._clients[url]

    async def refresh(self) -> None:
        """Ask for the map if it is stale. Raises redis-py's errors if no source knows it."""
        async with self._asking:
            if not self.topology.stale:
                return
            failure: Exception = exceptions.ClusterDownError("no server knows who holds the keys")
            for source in self._sources():
                try:
                    answer = await self.client(source).execute_command(*self.topology.question())  # type: ignore[no-untyped-call]
                except (exceptions.ConnectionError, exceptions.TimeoutError, OSError) as error:
                    self._silent.add(source)
                    failure = error
                    continue
                if self._answered(answer, source):
                    return
            raise failure


class SyncNodes(_Map):
    """Blocking clients by server, for one thread at a time."""

    def __init__(self, url: str, *, socket_timeout: float) -> None:
        super().__init__(url)
        self._socket_timeout = socket_timeout
        self._clients: dict[str, redis.Redis] = {}

    def close(self) -> None:
        for client in self._clients.values():
            client.close()

    def at(self, key: str) -> "redis.Redis":
        """Return the client of the server that holds a key. Raises redis-py's errors."""
        if self.topology.stale:
            self._refresh()
        return self._client(self._node(key))

    def primaries(self) -> "dict[str, redis.Redis]":
        """Return the clients of all servers that take writes, by URL. Raises redis-py's errors."""
        if self.topology.stale:
            self._refresh()
        return {url: self._client(url) for url in self.topology.primaries()}

    def _client(self, url: str) -> "redis.Redis":
        if url not in self._clients:
            self._clients[url] = connect_sync(url, socket_timeout=self._socket_timeout)
        return self._clients[url]

    def _refresh(self) -> None:
        failure: Exception = exceptions.ClusterDownError("no server knows who holds the keys")
        for source in self._sources():
            try:
                answer = self._client(source).execute_command(*self.topology.question())  # type: ignore[no-untyped-call]
            except (exceptions.ConnectionError, exceptions.TimeoutError, OSError) as error:
                self._silent.add(source)
                failure = error
                continue
            if self._answered(answer, source):
                return
        raise failure
