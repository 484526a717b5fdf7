"""A tenant's replies under way, of all daemons together.

Each daemon tells how many it writes, and is told those of the others, in one step when a reply
begins. It tells again when one has ended, and every few seconds while there are any: a daemon that
died is forgotten with its replies.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from memoryd.errors import MemorydError
from memoryd.quotas.questions import PATIENCE
from memoryd.quotas.refusals import refusal
from memoryd.storage.errors import TenantFull
from memoryd.storage.tenants import TenantStore

logger = structlog.get_logger(__name__)

FORGOTTEN_SECONDS = 30.0
RETRY_SECONDS = 0.5


@dataclass
class _Place:
    """A reply that is to begin.

    waiting: its call has not gone on without an answer. refused_at: so many others ran.
    """

    waiting: bool = True
    refused_at: int | None = None


class RunningReplies:
    """One tenant's replies; `count` are this daemon's."""

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
        self._lock = asyncio.Lock()
        self._asked_at = float("inf")  # when what is under way was asked
        self._told: int | None = None
        self._told_at = float("-inf")
        self._tasks: set[asyncio.Task[int]] = set()
        self.count = 0

    async def begin(self, limit: int) -> None:
        """One more. Raises QuotaExceeded where `limit` run already.

        Where Redis does not answer, this daemon's own replies are what counts.
        """
        if self.count >= limit:
            raise self._full(self.count, limit)
        self.count += 1
        if self._clock() - self._asked_at > PATIENCE:
            return
        place = _Place()
        telling = self._tell(limit, place)
        try:
            await asyncio.wait({telling}, timeout=PATIENCE)
        except asyncio.CancelledError:
            if place.refused_at is None:
                self.end()
            raise
        finally:
            place.waiting = False
        if place.refused_at is not None:
            raise self._full(place.refused_at, limit)

    def end(self) -> None:
        """One less."""
        self.count -= 1
        if not self._lock.locked():
            self._tell()

    def remind(self) -> None:
        """Tells again what was not told, or would be forgotten soon."""
        old = self.count and self._clock() - self._told_at > FORGOTTEN_SECONDS / 3
        if (old or self._told not in (None, self.count)) and not self._lock.locked():
            self._tell()

    async def others(self) -> int:
        """Replies of the other daemons."""
        return await self._tell()

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()

    def _tell(self, limit: int = 0, place: _Place | None = None) -> "asyncio.Task[int]":
        task = asyncio.ensure_future(self._run(limit, place))
        self._tasks.add(task)
        task.add_done_callback(self._on_told)
        return task

    def _on_told(self, task: "asyncio.Task[int]") -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, TenantFull):
            logger.warning("replies_not_counted", tenant=self._tenant, error=str(error))

    async def _run(self, limit: int, place: _Place | None) -> int:
        async with self._lock:
            count = self.count
            self._asked_at = self._clock()
            try:
                others = await self._store.run(
                    self._tenant,
                    self._daemon,
                    count,
                    limit=limit,
                    ttl_ms=int(FORGOTTEN_SECONDS * 1000),
                )
            except TenantFull as full:
                # Before the next one asks, which may fit without this one.
                if place is not None and place.waiting:
                    self.count -= 1
                    place.refused_at = full.used + self.count
                raise
            finally:
                self._asked_at = float("inf")
            self._told, self._told_at = count, self._clock()
            return others

    def _full(self, used: int, limit: int) -> MemorydError:
        return refusal("concurrent_queries", used=used, limit=limit, retry_after=RETRY_SECONDS)
