"""A session's journal as its owner writes it: one change at a time, each applied exactly once.

The owner's copy of what Redis holds (offset, text state, writers, chat records) changes only after
Redis has said yes. A change whose outcome is unknown is sent again, under the same operation id,
before anything else is written.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import structlog

from memoryd.errors import AcknowledgedLost, StorageFull, StorageUnavailable
from memoryd.sessions.archive import Event, Frame, RecentFrames
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
    """New tokens, and what is true behind them. events: what was said, for the archive."""

    tokens: Sequence[int]
    text: TextState
    writers: Writers
    chats: ChatRecords
    events: tuple[Event, ...] = ()


@dataclass
class _Pending:
    """A change on its way. uncertain: a try of it was not answered and may have been applied."""

    op_id: int
    change: Change
    uncertain: bool = False


def journalled(entries: Sequence[tuple[int, bytes]], after: int) -> list[int]:
    """Tokens from offset `after` on, of what `Store.read_journal` gave for it."""
    tokens: list[int] = []
    end = after
    for entry_end, packed in entries:
        entry = np.frombuffer(packed, dtype="<u4")
        tokens += entry[end - (entry_end - len(entry)) :].tolist()
        end = entry_end
    return tokens


class SessionLog:
    """The journal of one session under one lease.

    on_tokens: called with new tokens once they are durable.
    """

    def __init__(
        self,
        store: Store,
        record: SessionRecord,
        recent: RecentTokens,
        frames: RecentFrames,
        on_tokens: Callable[[Sequence[int]], None],
    ) -> None:
        self._store = store
        self._lease: Lease = record.lease
        self._on_tokens = on_tokens
        self._op_id = 0
        self._pending: _Pending | None = None
        self._archiving = record.archive
        self.recent = recent
        self.frames = frames
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
            change = pending.change
            frame = self._frame(change)
            try:
                end = await self._store.append(
                    self._lease,
                    op_id=pending.op_id,
                    expected_next=self.next,
                    tokens=change.tokens,
                    text=change.text.pack(),
                    writers=change.writers.pack(),
                    fields=change.chats.changes_since(self.chats),
                    expected_archived=self.frames.end,
                    archive=frame,
                )
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
                    await self._restore(gap)
                finally:
                    # What restores comes before it, even where its own outcome is not known.
                    pending.op_id, pending.uncertain = self._next_op(), False
                continue
            self._pending = None
            self.next, self.text = end, change.text
            self.writers, self.chats = change.writers, change.chats
            if frame:
                self.frames.extend(end, frame)
            if change.tokens:
                self.recent.extend(change.tokens)
                self._on_tokens(change.tokens)

    def forget_before(self, offset: int) -> None:
        """Drops from memory what a committed checkpoint at `offset` covers."""
        self.recent.forget_before(offset)
        self.frames.forget_before(offset)

    async def _restore(self, gap: JournalGap) -> None:
        """Writes again what Redis has lost of journal and archive.

        Raises AcknowledgedLost where it is no longer known here.
        """
        survived, archived = gap.actual, gap.archived or 0
        tokens = self.recent.since(survived) if survived <= self.next else None
        frames = self.frames.since(archived)
        if tokens is None or frames is None:
            raise AcknowledgedLost(
                f"the journal ends at token {survived}, but {self.next} were acknowledged, "
                "and this daemon no longer holds what lies between",
                offset=survived,
                acknowledged=self.next,
            )
        logger.warning("journal_restored", survived=survived, tokens=len(tokens))
        await self._store.append(
            self._lease,
            op_id=self._next_op(),
            expected_next=survived,
            tokens=tokens,
            text=self.text.pack(),
            writers=self.writers.pack(),
            fields=self.chats.changes_since(ChatRecords()),
            expected_archived=archived,
            archive=frames,
        )

    def _frame(self, change: Change) -> bytes:
        """What a change adds to the archive."""
        if not (self._archiving and change.events):
            return b""
        return Frame(self.next + len(change.tokens), change.events).pack()

    def _next_op(self) -> int:
        self._op_id += 1
        return self._op_id
