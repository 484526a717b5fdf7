"""What was said to a session and by it, so that its memory can be built anew from it.

An archive is a run of frames, one for each change of the stream that said something. A frame holds
the events of its change in their order, as bytes before any tokenizer, and the offset in tokens
that they led to. Replayed through a `TextFramer` they give the stream's tokens again, or those of
another model.

Layout of a frame, integers little-endian:

    length   uint32   of the body
    body     msgpack  [tokens of the stream behind it, [event, ..]]
    digest   8 bytes  xxh3-64 over everything before it

Events: [0, role, open, writer, content] a piece; [1, text, ids as uint32] the next part of a reply;
[2] the end of the open turn.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgpack
import numpy as np
import xxhash

from lalte.text import Role
from memoryd.errors import StateCorrupt
from memoryd.sessions.text import Piece
from memoryd.storage.store import pack_tokens

_LENGTH_BYTES, _DIGEST_BYTES = 4, 8
_SAID, _REPLIED, _CLOSED = range(3)


@dataclass(frozen=True, slots=True)
class Said:
    """A piece of a turn or document that `writer` sent."""

    piece: Piece
    writer: str


@dataclass(frozen=True, slots=True)
class Replied:
    """The next part of the reply whose turn is open: what was shown, and the ids drawn for it.

    Drawn ids need not be those that the tokenizer would give for the text.
    """

    text: str
    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Closed:
    """The open turn ended as it stood: a reply's end, or the time-out of a silent writer."""


Event = Said | Replied | Closed


@dataclass(frozen=True, slots=True)
class Frame:
    """The events of one change, and the offset of the stream behind it in tokens."""

    next: int
    events: tuple[Event, ...]

    def pack(self) -> bytes:
        body: bytes = msgpack.packb([self.next, [_row(event) for event in self.events]])
        framed = len(body).to_bytes(_LENGTH_BYTES, "little") + body
        return framed + bytes(xxhash.xxh3_64_digest(framed))


def _row(event: Event) -> list[Any]:
    match event:
        case Said(piece, writer):
            return [_SAID, piece.role.value, piece.open, writer, piece.content]
        case Replied(text, ids):
            return [_REPLIED, text, pack_tokens(ids)]
        case Closed():
            return [_CLOSED]


def frames(data: bytes) -> Iterator[tuple[Frame, bytes]]:
    """The frames of a whole number of them, each with its bytes. Raises StateCorrupt."""
    view, at = memoryview(data), 0
    while at < len(view):
        body_at = at + _LENGTH_BYTES
        body_end = body_at + int.from_bytes(view[at:body_at], "little")
        end = body_end + _DIGEST_BYTES
        if end > len(view):
            raise _corrupt("a frame of it is cut off")
        if xxhash.xxh3_64_digest(view[at:body_end]) != view[body_end:end]:
            raise _corrupt("the digest of a frame does not fit its bytes")
        yield _frame(view[body_at:body_end]), bytes(view[at:end])
        at = end


def _frame(body: memoryview) -> Frame:
    try:
        # Lengths are checked against the bytes at hand before anything is allocated for them.
        following, rows = msgpack.unpackb(body, max_ext_len=0, max_map_len=0)
        if type(following) is not int or following < 0 or type(rows) is not list:
            raise TypeError("offset and events")
        return Frame(following, tuple(_event(row) for row in rows))
    except (ValueError, TypeError, AttributeError, msgpack.UnpackException) as error:
        raise _corrupt(f"a frame of it cannot be read ({type(error).__name__})") from error


def _event(row: list[Any]) -> Event:
    match row:
        case [0, str(role), bool(is_open), str(writer), bytes(content)]:
            return Said(Piece(Role(role), content, is_open), writer)
        case [1, str(text), bytes(ids)]:
            return Replied(text, tuple(np.frombuffer(ids, dtype="<u4").tolist()))
        case [2]:
            return Closed()
    raise TypeError("an event of no known kind")


def _corrupt(what: str) -> StateCorrupt:
    return StateCorrupt(
        f"The stored archive was refused, {what}: restore a snapshot or import an export.",
        record="archive",
    )


class RecentFrames:
    """The owner's memory of the frames that no checkpoint covers yet; see `RecentTokens`.

    start, end: bytes of the archive.
    """

    def __init__(self, end: int) -> None:
        self._frames: deque[tuple[int, bytes]] = deque()  # tokens behind it, content
        self.start = self.end = end

    def extend(self, following: int, packed: bytes) -> None:
        self._frames.append((following, packed))
        self.end += len(packed)

    def extend_back(self, following: int, packed: bytes) -> None:
        """Adds the frame before the first one."""
        self._frames.appendleft((following, packed))
        self.start -= len(packed)

    def since(self, offset: int) -> bytes | None:
        """Bytes [offset, end), or None where they are no longer known."""
        if not self.start <= offset <= self.end:
            return None
        return b"".join(packed for _, packed in self._frames)[offset - self.start :]

    def forget_before(self, tokens: int) -> None:
        """Drops the frames that lead to an offset before `tokens`.

        One that leads to it exactly may have brought bytes without a token, so the stored journal
        can reach there without it.
        """
        while self._frames and self._frames[0][0] < tokens:
            self.start += len(self._frames.popleft()[1])


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    """Whole frames, about `size` bytes at a time. Raises StateCorrupt."""
    held = bytearray()
    for _, packed in frames(data):
        held += packed
        if len(held) >= size:
            yield bytes(held)
            held.clear()
    if held:
        yield bytes(held)
