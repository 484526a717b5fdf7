"""Recognising a writer's retries.

The owner keeps, for each of the last writers of a session, the newest sequence number and its
acknowledgement. The map is stored in the same script as the journal entry it belongs to, so that
it survives whatever the entry survives.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import msgpack

from memoryd.errors import SequenceGap
from memoryd.sessions.packing import unpack

MAX_WRITERS = 16


@dataclass(frozen=True)
class Ack:
    """What a writer was told: the stream's offset in tokens, and bytes behind it without tokens."""

    next: int
    tail_bytes: int
    replayed: bool = False


class Writers:
    """The last writers of a session, least recently used first. Immutable: changes give a copy."""

    def __init__(self, entries: dict[str, tuple[int, int, int]] | None = None) -> None:
        self._entries = entries or {}

    @classmethod
    def unpack(cls, packed: bytes) -> "Writers":
        """Raises StateCorrupt."""
        if not packed:
            return cls()
        return unpack(
            packed,
            lambda rows: cls({str(writer): (int(a), int(b), int(c)) for writer, a, b, c in rows}),
            "table of writers",
        )

    @property
    def count(self) -> int:
        return len(self._entries)

    @property
    def entries(self) -> Mapping[str, tuple[int, int, int]]:
        """By writer: its last message, and the offset and tail bytes that it was told."""
        return self._entries

    def pack(self) -> bytes:
        packed: bytes = msgpack.packb([[writer, *row] for writer, row in self._entries.items()])
        return packed

    def replayed(self, writer: str, seq: int) -> Ack | None:
        """The stored acknowledgement if message `seq` was applied, None if it is the next one.

        Raises SequenceGap if messages between are missing. A writer that is not known, or was
        forgotten, may start anywhere.
        """
        entry = self._entries.get(writer)
        if entry is None:
            return None
        last, end, tail_bytes = entry
        if seq <= last:
            return Ack(end, tail_bytes, replayed=True)
        if seq != last + 1:
            raise SequenceGap(
                f"writer {writer!r} sent message {seq}, but {last + 1} is next",
                expected=last + 1,
                got=seq,
            )
        return None

    def applied(self, writer: str, seq: int, ack: Ack) -> "Writers":
        """The map after message `seq`; the least recently used writer makes room."""
        entries = dict(self._entries)
        entries.pop(writer, None)
        entries[writer] = (seq, ack.next, ack.tail_bytes)
        while len(entries) > MAX_WRITERS:
            del entries[next(iter(entries))]
        return Writers(entries)
