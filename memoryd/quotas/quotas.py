"""What every tenant may have, as this daemon holds them to it."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace

from memoryd.detached import detached
from memoryd.errors import QuotaExceeded
from memoryd.metrics import Metrics
from memoryd.quotas.questions import Question
from memoryd.quotas.refusals import refusal
from memoryd.quotas.replies import RunningReplies
from memoryd.quotas.stored import StoredBytes
from memoryd.quotas.tokens import TokenLease
from memoryd.storage.errors import TenantFull
from memoryd.storage.keys import SessionKey
from memoryd.storage.tenants import Quota, TenantStore, Usage

BELIEVED_SECONDS = 5.0
"""For which limits and usage are believed that were read from Redis."""
RECOUNT_SECONDS = 10.0
"""A tenant at its limit has its sessions measured again at most so often by each daemon."""
COUNT_SECONDS = 2.0


class _Tenant:
    """What this daemon knows of one tenant."""

    def __init__(
        self,
        name: str,
        store: TenantStore,
        daemon: str,
        defaults: Quota,
        clock: Callable[[], float],
    ) -> None:
        self.name = name
        self.limits = self._defaults = defaults
        self.own: Mapping[str, int] = {}
        self.usage = Usage(0, 0)
        self.counted = False
        self.tokens = TokenLease(store, name, daemon, clock)
        self.replies = RunningReplies(store, name, daemon, clock)
        self._store = store
        self._clock = clock
        self._read_at = float("-inf")
        self._reading = Question(self.read)

    async def refresh(self, *, older_than: float = BELIEVED_SECONDS) -> None:
        """Reads limits and usage unless they are younger; keeps them if Redis does not answer."""
        if self._clock() - self._read_at >= older_than:
            await self._reading.answer()

    async def read(self) -> None:
        """Reads them now. Raises as storage does."""
        asked = self._clock()
        self.own, self.usage = await self._store.read(self.name)
        self.limits, self._read_at = replace(self._defaults, **self.own), asked

    def close(self) -> None:
        self._reading.close()
        self.tokens.close()
        self.replies.close()


class Quotas:
    """Admits what tenants want to do, and counts it.

    defaults: limits of tenants that have none of their own. daemon: the id of this one.
    Methods that admit raise QuotaExceeded. They may be cancelled at any time.
    """

    def __init__(
        self,
        store: TenantStore,
        defaults: Quota,
        daemon: str,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.defaults = defaults
        self._store = store
        self._daemon = daemon
        self._metrics = metrics
        self._clock = clock
        self._tenants: dict[str, _Tenant] = {}
        self._stored = StoredBytes(store, self._on_usage, clock)

    def close(self) -> None:
        for tenant in self._tenants.values():
            tenant.close()

    # What calls ask

    @asynccontextmanager
    async def new_session(self, key: SessionKey, nbytes: int = 0) -> AsyncIterator[None]:
        """One more session of so many bytes; it is made inside, or given up with an error."""
        with self._refusals_counted(key.tenant):
            tenant = await self._known(key.tenant)
            await self._admit_bytes(tenant, nbytes)
            limit = tenant.limits.sessions
            if limit and not await self._enlisted(key, limit):
                await detached(self._stored.note_changes())
                await self._recount(tenant)
                if not await self._enlisted(key, limit):
                    raise refusal("sessions", used=limit, limit=limit)
        try:
            yield
        finally:
            self.changed(key)

    async def admit_bytes(self, name: str, nbytes: int = 0) -> None:
        """So many more bytes in Redis; 0 stands for few."""
        with self._refusals_counted(name):
            await self._admit_bytes(await self._known(name), nbytes)

    async def admit_append(self, name: str) -> None:
        """A message of any length."""
        with self._refusals_counted(name):
            tenant = await self._known(name)
            await self._admit_bytes(tenant, 0)
            await self._admit_tokens(tenant)

    @asynccontextmanager
    async def reply(self, name: str, *, remembered: bool) -> AsyncIterator[None]:
        """A reply, from its call to its end. remembered: it is journaled, as a chat's is."""
        with self._refusals_counted(name):
            tenant = await self._known(name)
            if remembered:
                await self._admit_bytes(tenant, 0)
            await self._admit_tokens(tenant)
            limit = tenant.limits.concurrent_queries
            if limit:
                await tenant.replies.begin(limit)
        try:
            yield
        finally:
            if limit:
                tenant.replies.end()

    # What sessions tell

    def charge(self, name: str, tokens: int) -> None:
        """Tokens were journaled, or written in a reply that is not."""
        tenant = self._tenants.get(name)
        if tenant is not None and tenant.limits.tokens_per_minute:
            tenant.tokens.charge(tokens)

    def changed(self, key: SessionKey) -> None:
        """A session was made, deleted, or keeps other bytes than before."""
        tenant = self._tenants.get(key.tenant)
        if tenant is not None and (tenant.limits.stored_bytes or tenant.limits.sessions):
            self._stored.changed(key)

    async def keep_house(self) -> None:
        """Tells Redis what has changed; for a task of its own. Never ends."""
        while True:
            await asyncio.sleep(COUNT_SECONDS)
            await self._stored.note_changes()
            for tenant in tuple(self._tenants.values()):
                await tenant.tokens.settle()
                tenant.replies.remind()

    # What an operator asks

    async def show(self, name: str) -> tuple[Quota, tuple[str, ...], Quota]:
        """A tenant's limits, the names of those that are its own, and what it uses of them now.

        Tokens and replies are counted only where there is a limit to them. Raises as storage does.
        """
        tenant = self._tenant(name)
        await self._stored.recount(name)
        await tenant.read()
        limits = tenant.limits
        used = Quota(
            sessions=tenant.usage.sessions,
            stored_bytes=tenant.usage.stored_bytes,
            tokens_per_minute=await tenant.tokens.used(limits.tokens_per_minute)
            if limits.tokens_per_minute
            else 0,
            concurrent_queries=tenant.replies.count + await tenant.replies.others()
            if limits.concurrent_queries
            else 0,
        )
        return limits, tuple(tenant.own), used

    async def set_limits(
        self, name: str, limits: Mapping[str, int | None]
    ) -> tuple[Quota, tuple[str, ...]]:
        """Gives a tenant limits of its own; None goes back to the default. Gives what `show` does.

        This daemon goes by them at once, others within BELIEVED_SECONDS. Raises as storage does.
        """
        await self._store.set_limits(name, limits)
        tenant = self._tenant(name)
        await tenant.read()
        return tenant.limits, tuple(tenant.own)

    # The rest

    def _tenant(self, name: str) -> _Tenant:
        if name not in self._tenants:
            self._tenants[name] = _Tenant(
                name, self._store, self._daemon, self.defaults, self._clock
            )
        return self._tenants[name]

    async def _known(self, name: str) -> _Tenant:
        tenant = self._tenant(name)
        await tenant.refresh()
        return tenant

    async def _enlisted(self, key: SessionKey, limit: int) -> bool:
        try:
            await detached(self._store.enlist(key, limit=limit))
        except TenantFull:
            return False
        return True

    async def _admit_bytes(self, tenant: _Tenant, nbytes: int) -> None:
        limit = tenant.limits.stored_bytes
        if not limit:
            return
        if not tenant.counted:
            # What was stored while nobody counted.
            tenant.counted = True
            await self._recount(tenant)
        if not _over(tenant, nbytes):
            return
        await detached(self._stored.note_changes())
        await tenant.refresh(older_than=0)
        if _over(tenant, nbytes):
            await self._recount(tenant)
        if _over(tenant, nbytes):
            raise refusal("stored_bytes", used=tenant.usage.stored_bytes, limit=limit)

    async def _admit_tokens(self, tenant: _Tenant) -> None:
        if limit := tenant.limits.tokens_per_minute:
            await tenant.tokens.admit(limit)

    async def _recount(self, tenant: _Tenant) -> None:
        await detached(self._stored.recount(tenant.name, unless_within=RECOUNT_SECONDS))

    def _on_usage(self, name: str, usage: Usage) -> None:
        self._tenant(name).usage = usage
        self._metrics.stored(name, usage.sessions, usage.stored_bytes)

    @contextmanager
    def _refusals_counted(self, name: str) -> Iterator[None]:
        try:
            yield
        except QuotaExceeded as error:
            self._metrics.quota_refused(name, error.facts["quota"])
            raise


def _over(tenant: _Tenant, nbytes: int) -> bool:
    used, limit = tenant.usage.stored_bytes, tenant.limits.stored_bytes
    return used + nbytes > limit if nbytes else used >= limit
