"""From pieces of turns to the tokens of a stream.

A stream's tokens are a function of its turns alone, never of how they were cut into pieces: bytes
behind the last safe boundary wait in `TextState.tail` for what follows them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgpack

from lalte.text import InvalidUtf8, Role, StreamEncoder, Tokenizer, TurnFormat
from memoryd.errors import InvalidUtf8Content, TurnOpen
from memoryd.sessions.packing import unpack


@dataclass(frozen=True)
class Piece:
    """Text of one turn or document; `open` says that more of it follows."""

    role: Role
    content: bytes
    open: bool = False


OPENED_REPLY = Piece(Role.ASSISTANT, b"", open=True)
"""What opens the turn of a reply."""


@dataclass(frozen=True)
class TextState:
    """What is known of a stream's text behind its last token.

    started: tokens that stand at the start of every stream are journaled.
    role, writer, touched_ms: the open turn, who writes it, and when last; role None: none is open.
    tail: bytes accepted and not yet cut into tokens.
    """

    started: bool = False
    role: Role | None = None
    writer: str = ""
    touched_ms: int = 0
    tail: bytes = b""

    def pack(self) -> bytes:
        role = None if self.role is None else self.role.value
        packed: bytes = msgpack.packb([self.started, role, self.writer, self.touched_ms, self.tail])
        return packed

    @classmethod
    def unpack(cls, packed: bytes) -> "TextState":
        """Raises StateCorrupt."""
        if not packed:
            return cls()
        return unpack(packed, cls._of_row, "open turn")

    @classmethod
    def _of_row(cls, row: list[Any]) -> "TextState":
        started, role, writer, touched_ms, tail = row
        fits = isinstance(writer, str) and isinstance(touched_ms, int) and isinstance(tail, bytes)
        if not fits:
            raise TypeError("writer, time and tail of an open turn")
        return cls(bool(started), None if role is None else Role(role), writer, touched_ms, tail)


class TextFramer:
    """Cuts pieces into tokens under one tokenizer and turn format. All methods are pure.

    turn_timeout_ms: after so long an open turn may be closed by others.
    """

    def __init__(
        self, tokenizer: Tokenizer, turn_format: TurnFormat, *, turn_timeout_ms: int
    ) -> None:
        self._encoder = StreamEncoder(tokenizer)
        self._format = turn_format
        self._turn_timeout_ms = turn_timeout_ms

    def append(
        self,
        state: TextState,
        pieces: Sequence[Piece],
        *,
        writer: str,
        now_ms: int,
        abandoned: bool = False,
    ) -> tuple[list[int], TextState]:
        """Tokens of the pieces, and the state behind them.

        abandoned: the writer of an open turn is known to be gone, so it need not time out.
        Raises InvalidUtf8Content, and TurnOpen where another writer's turn is open.
        """
        tokens: list[int] = []
        for index, piece in enumerate(pieces):
            if state.role is not None and state.writer != writer:
                if not (abandoned or self.timed_out(state, now_ms)):
                    wait = (state.touched_ms + self._turn_timeout_ms - now_ms) / 1000
                    raise TurnOpen(
                        f"another writer's {state.role.value} turn is open; "
                        f"it is closed after {wait:.0f} s without a piece",
                        retry_after=min(wait, 1.0),
                    )
                tokens += self._close_into(state)
                state = replace(state, role=None, writer="", tail=b"")
            try:
                added, state = self._append_one(state, piece, writer=writer, now_ms=now_ms)
            except InvalidUtf8 as error:
                raise InvalidUtf8Content(
                    f"piece {index}: byte {_byte(error)} is not UTF-8; "
                    "nothing of this message was kept",
                    piece=index,
                    byte=_byte(error),
                ) from None
            tokens += added
        return tokens, state

    def _append_one(
        self, state: TextState, piece: Piece, *, writer: str, now_ms: int
    ) -> tuple[list[int], TextState]:
        tokens: list[int] = []
        if state.role is not None and state.role != piece.role:
            taken = self._encoder.take(state.tail, b"", final=True)
            tokens += taken.ids + self._format.close(state.role)
            state = replace(state, role=None, tail=b"")
        if state.role is None:
            if not state.started:
                tokens += self._format.start(piece.role)
            tokens += self._format.open(piece.role)
        taken = self._encoder.take(state.tail, piece.content, final=not piece.open)
        tokens += taken.ids
        if piece.open:
            return tokens, TextState(True, piece.role, writer, now_ms, taken.tail)
        return tokens + self._format.close(piece.role), TextState(started=True)

    def timed_out(self, state: TextState, now_ms: int) -> bool:
        """A turn is open and its writer has been silent too long."""
        return state.role is not None and now_ms - state.touched_ms >= self._turn_timeout_ms

    def close(self, state: TextState) -> tuple[list[int], TextState]:
        """Ends the open turn as it stands; an unfinished character at its end is dropped."""
        return self._close_into(state), TextState(started=state.started)

    def _close_into(self, state: TextState) -> list[int]:
        if state.role is None:
            return []
        return self._whole(state.tail) + self._format.close(state.role)

    def _whole(self, tail: bytes, data: bytes = b"") -> list[int]:
        whole = tail if data else tail.decode("utf-8", "ignore").encode()
        return self._encoder.take(whole, data, final=True).ids

    def question(
        self, state: TextState, question: bytes, *, reply_prefix: bytes, raw: bool
    ) -> list[int]:
        """Tokens that a query reads behind the stream's tokens, on its copy of the memory.

        Raw: the tail, the question and the reply's prefix as one run of text. Otherwise an open
        turn is closed, and the question stands in a user turn, the prefix in the reply.
        Raises InvalidUtf8Content.
        """
        try:
            if raw:
                start = [] if state.started else self._format.start(Role.RAW)
                return start + self._whole(state.tail, question + reply_prefix)
            turn, _ = self._append_one(
                TextState(started=state.started),
                Piece(Role.USER, question),
                writer="",
                now_ms=0,
            )
            prefix = self._encoder.take(b"", reply_prefix, final=True).ids
        except InvalidUtf8 as error:
            raise InvalidUtf8Content(
                f"byte {_byte(error)} of the question or its reply prefix is not UTF-8",
                byte=_byte(error),
            ) from None
        return self._close_into(state) + turn + self._format.reply_prefix + prefix

    def open_reply(
        self, state: TextState, *, writer: str, now_ms: int
    ) -> tuple[list[int], TextState]:
        """Opens an assistant turn for `writer`; no turn may be open."""
        return self._append_one(state, OPENED_REPLY, writer=writer, now_ms=now_ms)

    def encode(self, text: str) -> list[int]:
        """Tokens of plain text by itself."""
        return self._encoder.take(b"", text.encode(), final=True).ids


def _byte(error: InvalidUtf8) -> int:
    """Where the text goes wrong. A character begun earlier breaks at the first byte after it."""
    return max(error.offset, 0)
