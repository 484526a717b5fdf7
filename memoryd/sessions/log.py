"""A session's journal as its owner writes it: one change at a time, each applied exactly once.

The owner's copy of what Redis holds (offset, text state, writers, chat records) changes only after
Redis has said yes. A change whose outcome is unknown is sent again, under the same operation id,
before anything else is written.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from memoryd.errors import AcknowledgedLost, StorageFull, StorageUnavailable
from memoryd.sessions.chat import ChatRecords
from memoryd.sessions.recent import RecentTokens
from memoryd.sessions.text import TextState
from memoryd.sessions.writers import Writers
from memoryd.storage.errors import JournalGap
from memoryd.storage.records import Lease, SessionRecord
from memoryd.storage.store import Store

logger = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Change:
    """New tokens, and what is true behind them."""

    tokens: Sequence[int]
    text: TextState
    writers: Writers
    chats: ChatRecords


@dataclass
class _Pending:
    """A change on its way. uncertain: a try of it was not answered and may have been applied."""

    op_id: int
    change: Change
    uncertain: bool = False


class SessionLog:
    """The journal of one session under one lease.

    on_tokens: called with new tokens once they are durable.
    """

    def __init__(
        self,
        store: Store,
        record: SessionRecord,
        recent: RecentTokens,
        on_tokens: Callable[[Sequence[int]], None],
    ) -> None:
        self._store = store
        self._lease: Lease = record.lease
        self._on_tokens = on_tokens
        self._op_id = 0
        self._pending: _Pending | None = None
        self.recent = recent
        self.next = record.next
        self.text = TextState.unpack(record.text)
        self.writers = Writers.unpack(record.writers)
        self.chats = ChatRecords.unpack(record.fields)

    async def write(self, change: Change) -> None:
        """Journals a change. The caller has called `settle` since it read what it builds on.

        Raises StorageUnavailable with the outcome unknown: `settle` finds it out. Raises
        StorageFull with nothing changed, and OwnershipLost, SessionNotFound, AcknowledgedLost as
        the end of this log.
        """
        self._pending = _Pending(self._next_op(), change)
        await self.settle()

    async def settle(self) -> None:
        """Finishes a change whose outcome was unknown. Raises as `write`."""
        while self._pending is not None:
            pending = self._pending
            try:
                end = await self._append(pending.op_id, self.next, pending.change, self.chats)
            except StorageUnavailable:
                pending.uncertain = True
                raise
            except StorageFull:
                # It may have been applied before memory ran out: only its own answer tells.
                if not pending.uncertain:
                    self._pending = None
                raise
            except JournalGap as gap:
                try:
                    await self.restore(gap.actual)
                finally:
                    # What restores comes before it, even where its own outcome is not known.
                    pending.op_id, pending.uncertain = self._next_op(), False
                continue
            self._pending = None
            change = pending.change
            self.next, self.text = end, change.text
            self.writers, self.chats = change.writers, change.chats
            if change.tokens:
                self.recent.extend(change.tokens)
                self._on_tokens(change.tokens)

    async def restore(self, survived: int) -> None:
        """Writes again what Redis has lost: everything behind the offset `survived`.

        Raises AcknowledgedLost where it is no longer known here.
        """
        lost = self.recent.since(survived) if survived <= self.next else None
        if lost is None:
            raise AcknowledgedLost(
                f"the journal ends at token {survived}, but {self.next} were acknowledged, "
                "and this daemon no longer holds what lies between",
                offset=survived,
                acknowledged=self.next,
            )
        logger.warning("journal_restored", survived=survived, tokens=len(lost))
        change = Change(lost, self.text, self.writers, self.chats)
        await self._append(self._next_op(), survived, change, ChatRecords())

    async def _append(
        self, op_id: int, expected_next: int, change: Change, stored: ChatRecords
    ) -> int:
        return await self._store.append(
            self._lease,
            op_id=op_id,
            expected_next=expected_next,
            tokens=change.tokens,
            text=change.text.pack(),
            writers=change.writers.pack(),
            fields=change.chats.changes_since(stored),
        )

    def _next_op(self) -> int:
        self._op_id += 1
        return self._op_id
