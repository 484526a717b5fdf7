"""Counting what tenants keep in Redis.

A session's keys lie in another slot than its tenant's figures, so they are counted after the fact:
what has changed is measured and noted every few seconds, which is how far a tenant can get beyond
its limit. Whatever was missed meanwhile, sessions that expired or whose daemon died, comes right
when all of a tenant's sessions are measured again: before anybody is refused, and for an operator
who asks.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable

import structlog

from memoryd.errors import MemorydError
from memoryd.storage.keys import SessionKey
from memoryd.storage.tenants import TenantStore, Usage

logger = structlog.get_logger(__name__)

PAGE = 500
AT_ONCE = 16
"""Sessions that are measured at the same time."""


class StoredBytes:
    """on_usage: told what a tenant uses whenever it was counted."""

    def __init__(
        self,
        store: TenantStore,
        on_usage: Callable[[str, Usage], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._on_usage = on_usage
        self._clock = clock
        self._changed: set[SessionKey] = set()
        self._recounted_at: dict[str, float] = {}
        self._measuring = asyncio.Semaphore(AT_ONCE)

    def changed(self, key: SessionKey) -> None:
        self._changed.add(key)

    async def note_changes(self) -> None:
        """Counts the sessions that have changed since it was last called."""
        changed, self._changed = self._changed, set()
        by_tenant: dict[str, list[SessionKey]] = defaultdict(list)
        for key in changed:
            by_tenant[key.tenant].append(key)
        for tenant, keys in by_tenant.items():
            try:
                await self._count(tenant, keys)
            except MemorydError as error:
                self._changed.update(keys)
                logger.warning("bytes_not_counted", tenant=tenant, error=str(error))

    async def recount(self, tenant: str, *, unless_within: float = 0.0) -> None:
        """Measures every session of a tenant, and forgets those that are gone.

        unless_within: does nothing if that was done so many seconds ago or less.
        """
        if self._clock() - self._recounted_at.get(tenant, float("-inf")) < unless_within:
            return
        self._recounted_at[tenant] = self._clock()
        name = ""
        while names := await self._store.names(tenant, after=name, count=PAGE):
            name = names[-1]
            await self._count(tenant, [SessionKey(tenant, one) for one in names])

    async def _count(self, tenant: str, keys: list[SessionKey]) -> None:
        sizes = await asyncio.gather(*map(self._measure, keys))
        usage = await self._store.account(
            tenant, {key.name: size for key, size in zip(keys, sizes, strict=True)}
        )
        self._on_usage(tenant, usage)

    async def _measure(self, key: SessionKey) -> int:
        async with self._measuring:
            return await self._store.measure(key)
