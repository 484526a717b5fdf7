"""A tenants' store that keeps its figures in memory, and can be silent as an absent Redis is."""

import asyncio

import pytest

from memoryd.errors import StorageUnavailable
from memoryd.storage.errors import TenantFull
from memoryd.storage.keys import SessionKey
from memoryd.storage.tenants import GONE, Grant, Usage


class Figures:
    """Stands for `TenantStore`. sizes: of sessions in Redis, by name. level: of the bucket.

    silent: nothing is answered until it is set back, as while Redis is away. lost: the next answer
    of `spend` gets lost after it was applied.
    """

    def __init__(self) -> None:
        self.own: dict[str, int] = {}
        self.sizes: dict[str, int] = {}
        self.noted: dict[str, int] = {}
        self.level = 600
        self.spent: list[tuple[int, int, int]] = []
        self.running: dict[str, int] = {}
        self.calls: list[str] = []
        self.lost = False
        self.heard = asyncio.Event()
        self.heard.set()

    def silence(self, silent: bool) -> None:
        if silent:
            self.heard.clear()
        else:
            self.heard.set()

    async def _answer(self, what: str) -> None:
        self.calls.append(what)
        await self.heard.wait()

    async def read(self, tenant: str) -> tuple[dict[str, int], Usage]:
        await self._answer("read")
        return dict(self.own), self._usage()

    async def names(self, tenant: str, *, after: str, count: int) -> list[str]:
        await self._answer("names")
        return sorted(name for name in self.noted if name > after)[:count]

    async def enlist(self, key: SessionKey, *, limit: int = 0) -> None:
        await self._answer("enlist")
        if limit and key.name not in self.noted and len(self.noted) >= limit:
            raise TenantFull(len(self.noted))
        self.noted.setdefault(key.name, 0)

    async def measure(self, key: SessionKey) -> int:
        await self._answer("measure")
        return self.sizes.get(key.name, GONE)

    async def account(self, tenant: str, sizes: dict[str, int]) -> Usage:
        await self._answer("account")
        for name, size in sizes.items():
            self.noted[name] = size
            if size == GONE:
                del self.noted[name]
        return self._usage()

    async def spend(
        self, tenant: str, daemon: str, *, op: int, limit: int, owed: int, wanted: int
    ) -> Grant:
        await self._answer("spend")
        if not self.spent or self.spent[-1][0] != op:
            self.level -= owed
            self.spent.append((op, owed, max(0, min(wanted, self.level))))
            self.level -= self.spent[-1][2]
        if self.lost:
            self.lost = False
            raise StorageUnavailable("the answer got lost")
        return Grant(self.spent[-1][2], self.level)

    async def run(self, tenant: str, daemon: str, count: int, *, limit: int, ttl_ms: int) -> int:
        await self._answer("run")
        others = sum(number for name, number in self.running.items() if name != daemon)
        if limit and others + count > limit:
            raise TenantFull(others)
        self.running[daemon] = count
        return others

    def _usage(self) -> Usage:
        return Usage(len(self.noted), sum(self.noted.values()))


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def figures() -> Figures:
    return Figures()


@pytest.fixture
def clock() -> Clock:
    return Clock()
