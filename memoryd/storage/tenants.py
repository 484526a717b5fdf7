"""What is kept of a tenant as a whole: the list of its sessions, their bytes, and its quotas.

All of it lies in one slot that is not that of any session, so no step covers both. A session's meta
is the truth: it is listed before it is made, counted after it has changed, and what is left of one
that is gone is swept when somebody comes upon it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields

from memoryd.storage import scripts
from memoryd.storage.client import Client
from memoryd.storage.errors import TenantFull
from memoryd.storage.keys import SessionKey, TenantKey

GONE = -1
"""The bytes of a session that is to be taken off the list."""


@dataclass(frozen=True, slots=True)
class Quota:
    """What a tenant may have; 0 is no limit.

    stored_bytes: in Redis, of all its sessions. tokens_per_minute: read and written together.
    concurrent_queries: replies of queries and chats under way.
    """

    sessions: int = 0
    stored_bytes: int = 0
    tokens_per_minute: int = 0
    concurrent_queries: int = 0


LIMITS = tuple(limit.name for limit in fields(Quota))


@dataclass(frozen=True, slots=True)
class Usage:
    """sessions: on the tenant's list. stored_bytes: as far as they were counted."""

    sessions: int
    stored_bytes: int


@dataclass(frozen=True, slots=True)
class Grant:
    """Tokens from a tenant's bucket. left: those still in it; below 0 it is in debt."""

    tokens: int
    left: int


class TenantStore:
    """The part of the store that `Store.tenants` gives; every method may raise as `Store`'s do."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def enlist(self, key: SessionKey, *, limit: int = 0) -> None:
        """Put a session on its tenant's list. Raises TenantFull where `limit` others are on it."""
        index = TenantKey(key.tenant).index
        answer = await self._client.call(scripts.INDEX_ADD, index, key.name, limit)
        if answer[0] == b"FULL":
            raise TenantFull(int(answer[1]))

    async def names(self, tenant: str, *, after: str, count: int) -> list[str]:
        """Return listed names behind `after` in their order; "" begins with the first."""
        low = f"({after}" if after else "-"
        names = await self._client.command(
            "ZRANGE", TenantKey(tenant).index, low, "+", "BYLEX", "LIMIT", 0, count
        )
        return [name.decode() for name in names]

    async def measure(self, key: SessionKey) -> int:
        """Return the bytes that a session keeps in Redis, GONE where there is no such session."""
        answer = await self._client.call(scripts.MEASURE, key.meta)
        return int(answer[1]) if answer[0] == b"OK" else GONE

    async def account(self, tenant: str, sizes: Mapping[str, int]) -> Usage:
        """Note the bytes of sessions by name, and list them; those that are GONE are forgotten."""
        answer = await self._client.call(
            scripts.ACCOUNT,
            TenantKey(tenant).bytes,
            *(part for pair in sizes.items() for part in pair),
        )
        return Usage(int(answer[1]), int(answer[2]))

    async def read(self, tenant: str) -> tuple[dict[str, int], Usage]:
        """Return the limits that the tenant has of its own, and what it uses."""
        key = TenantKey(tenant)
        limits, sessions, stored = await self._client.commands(
            [
                ("HMGET", key.quota, *LIMITS),
                ("ZCARD", key.index),
                ("HGET", key.bytes, ""),
            ]
        )
        own = {
            name: int(value)
            for name, value in zip(LIMITS, limits, strict=True)
            if value is not None
        }
        return own, Usage(int(sessions), int(stored or 0))

    async def set_limits(self, tenant: str, limits: Mapping[str, int | None]) -> None:
        """Give a tenant limits of its own; None takes one back."""
        parts = [
            part
            for name, limit in limits.items()
            for part in (name, "" if limit is None else limit)
        ]
        await self._client.call(scripts.PUT_FIELDS, TenantKey(tenant).quota, *parts)

    async def spend(
        self, tenant: str, daemon: str, *, op: int, limit: int, owed: int, wanted: int
    ) -> Grant:
        """Take `owed` tokens out of a tenant's bucket in any case, and up to `wanted` more.

        limit: tokens a minute, and the size of the bucket. op: counts up; the last one sent again
        with its arguments is answered as it was.
        """
        answer = await self._client.call(
            scripts.SPEND, TenantKey(tenant).tokens, daemon, op, limit, owed, wanted
        )
        return Grant(int(answer[1]), int(answer[2]))

    async def run(self, tenant: str, daemon: str, count: int, *, limit: int, ttl_ms: int) -> int:
        """Tell that a daemon writes `count` replies for a tenant; give those of the others.

        Forgotten after ttl_ms. Raises TenantFull with the number of the others where they are more
        than `limit` together, and leaves what was told before; 0 is no limit.
        """
        answer = await self._client.call(
            scripts.ENTER, TenantKey(tenant).running, daemon, count, limit, ttl_ms
        )
        if answer[0] == b"FULL":
            raise TenantFull(int(answer[1]))
        return int(answer[1])
