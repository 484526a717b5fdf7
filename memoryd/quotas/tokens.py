"""A tenant's tokens a minute, of which each daemon leases a few at a time.

The bucket in Redis holds one minute's tokens and fills up evenly, so that over t seconds no more
than limit * (1 + t / 60) flow out of it. Asking it for every piece of text would cost a round trip
each; a daemon takes a sixtieth of the minute's tokens, one second's worth, and asks again when they
are used. What is leased has left the bucket already, so several daemons together never get more
than it held; what a lease holds back from the others is one second's worth, and lapses.

How many tokens a text or a reply will be is known only afterwards. So a call is admitted while
there is anything left, and what it then takes beyond that is a debt, which the bucket is told of
next and which is paid before anything else is given: the overshoot is one message or reply, and is
made good.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from memoryd.quotas.questions import Question
from memoryd.quotas.refusals import refusal
from memoryd.storage.tenants import Grant, TenantStore

LEASE_SHARE = 60
"""A lease is this part of a minute's tokens."""
LEASE_SECONDS = 5.0


@dataclass(frozen=True)
class _Sent:
    """What the bucket is asked; kept until it is answered, because it may have been applied."""

    op: int
    limit: int
    owed: int
    wanted: int


class TokenLease:
    """One tenant's tokens in this daemon."""

    def __init__(
        self,
        store: TenantStore,
        tenant: str,
        daemon: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._tenant = tenant
        self._daemon = daemon
        self._clock = clock
        self._limit = 0
        self._balance = 0
        self._lapses_at = float("-inf")
        self._op = 0
        self._sent: _Sent | None = None
        self._question = Question(self._ask)

    def charge(self, tokens: int) -> None:
        """Tokens were read or written."""
        self._balance -= tokens

    async def admit(self, limit: int) -> None:
        """Raises QuotaExceeded where nothing is left of `limit` tokens a minute.

        While Redis does not answer everybody is admitted, and what they use is a debt: only replies
        of loaded sessions go on then, since nothing can be journaled.
        """
        self._limit = limit
        if self._balance > 0 and self._clock() < self._lapses_at:
            return
        grant = await self._question.answer()
        if grant is None or self._balance > 0:
            return
        missing = max(1, limit // LEASE_SHARE) - grant.left
        raise refusal(
            "tokens_per_minute",
            used=limit - grant.left,
            limit=limit,
            retry_after=missing * 60 / limit,
        )

    async def settle(self) -> None:
        """Tells the bucket of a debt, so that other daemons know of it."""
        if self._balance < 0 and self._limit:
            await self._question.answer()

    async def used(self, limit: int) -> int:
        """Tokens that are missing from the bucket of all daemons; 0 if it does not answer."""
        self._limit = limit
        grant = await self._question.answer()
        return 0 if grant is None else limit - grant.left - max(0, self._balance)

    def close(self) -> None:
        self._question.close()

    async def _ask(self) -> Grant:
        if self._sent is None:
            self._op += 1
            wanted = max(1, self._limit // LEASE_SHARE)
            self._sent = _Sent(self._op, self._limit, max(0, -self._balance), wanted)
            self._balance = 0  # what was left of the last lease has lapsed
        sent = self._sent
        grant = await self._store.spend(
            self._tenant,
            self._daemon,
            op=sent.op,
            limit=sent.limit,
            owed=sent.owed,
            wanted=sent.wanted,
        )
        self._sent = None
        self._balance += grant.tokens
        self._lapses_at = self._clock() + LEASE_SECONDS
        return grant
