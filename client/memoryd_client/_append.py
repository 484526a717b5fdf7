"""Appending: writers that number their messages, and the pipelined, resuming stream.

A message is known by (writer_id, seq). The daemon applies it once however often it is sent, so a
broken stream goes on by sending again what was not acknowledged.
"""

import uuid
from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any

from memoryd_client import _requests, _responses
from memoryd_client._errors import BadArgument, EmptyStream, MemorydError, Unreachable
from memoryd_client._flow import (
    NOTHING_YET,
    CloseWrites,
    Emit,
    Flow,
    Open,
    Pull,
    Read,
    Rpc,
    Sleep,
    Write,
)
from memoryd_client._retry import Attempts
from memoryd_client._types import Ack, AppendResult, Document, Piece, Role, Turn
from memoryd_proto.v1 import memory_pb2, types_pb2

OnAck = Callable[[Ack], None]


def new_writer_id() -> str:
    """A random name that no other writer has."""
    return uuid.uuid4().hex


class WriterNumbers:
    """The writer id and sequence number of the next unary append.

    After a failure a new id starts: it may be open whether the message was applied, and going on
    with either number could make a gap or hide the next message behind the lost one.
    """

    def __init__(self) -> None:
        self.writer_id = new_writer_id()
        self.seq = 1

    def applied(self) -> None:
        """The message is in the journal."""
        self.seq += 1

    def failed(self) -> None:
        """The message was refused, or nobody knows."""
        self.writer_id, self.seq = new_writer_id(), 1


@dataclass(frozen=True)
class StreamOptions:
    """How a stream is cut and paced.

    writer_id: None draws one. role: of bare text.
    piece_bytes: the most content that one message carries.
    window: the most messages that are sent and not yet acknowledged.
    """

    session: str
    writer_id: str | None
    role: Role
    piece_bytes: int
    window: int

    def __post_init__(self) -> None:
        if self.piece_bytes < 1 or self.window < 1:
            raise BadArgument("piece_bytes and window must be at least 1.")


class Cutter:
    """Cuts what a source yields into pieces of bounded size.

    Bare text forms one open turn of `role`; a whole Turn or Document ends it, and so does the
    source's end. Open turns are closed by an empty piece, because only the next item of the
    source shows whether one was the last, and text must not wait for that.
    """

    def __init__(self, role: Role, piece_bytes: int) -> None:
        self._role = role
        self._piece_bytes = piece_bytes
        self._open = False

    def cut(self, item: object) -> Iterator[types_pb2.Piece]:
        """The pieces of one item of the source."""
        match item:
            case str() | bytes():
                for part, _is_last in self._parts(item):
                    self._open = True
                    yield _requests.piece(self._role, part, is_open=True)
            case Turn():
                yield from self._whole(item.role, item.content, is_open=False)
            case Document():
                yield from self._whole(Role.DOCUMENT, item.content, is_open=False)
            case Piece():
                yield from self._whole(item.role, item.content, is_open=item.open)
            case _:
                raise _requests.unknown_content(item)

    def end(self) -> Iterator[types_pb2.Piece]:
        """What closes the turn of bare text, if one is open."""
        if self._open:
            self._open = False
            yield _requests.piece(self._role, b"")

    def _whole(
        self, role: Role, content: str | bytes, *, is_open: bool
    ) -> Iterator[types_pb2.Piece]:
        yield from self.end()
        for part, is_last in self._parts(content):
            yield _requests.piece(role, part, is_open=is_open or not is_last)

    def _parts(self, content: str | bytes) -> Iterator[tuple[bytes, bool]]:
        data = _requests.utf8(content)
        for start in range(0, len(data), self._piece_bytes):
            stop = start + self._piece_bytes
            yield data[start:stop], stop >= len(data)


class _Outbox:
    """Messages that are sent and not yet acknowledged, oldest first."""

    def __init__(self, options: StreamOptions) -> None:
        self._session = options.session
        self._writer_id = options.writer_id or new_writer_id()
        self._messages: deque[memory_pb2.AppendStreamRequest] = deque()
        self._seq = 0
        self.acked_bytes = 0

    def __len__(self) -> int:
        return len(self._messages)

    def __iter__(self) -> Iterator[memory_pb2.AppendStreamRequest]:
        return iter(self._messages)

    def add(self, piece: types_pb2.Piece) -> memory_pb2.AppendStreamRequest:
        """The next message. Each names session and writer: any may be the first of a resumption."""
        self._seq += 1
        message = memory_pb2.AppendStreamRequest(
            session=self._session,
            writer_id=self._writer_id,
            seq=self._seq,
            pieces=[piece],
        )
        self._messages.append(message)
        return message

    @property
    def is_unused(self) -> bool:
        """Nothing was ever sent."""
        return self._seq == 0

    def acknowledge(self, seq: int) -> bool:
        """Forget messages up to `seq`; whether there were any."""
        before = len(self._messages)
        while self._messages and self._messages[0].seq <= seq:
            done = self._messages.popleft()
            self.acked_bytes += sum(len(piece.content) for piece in done.pieces)
        return len(self._messages) < before


class _Source:
    """The caller's source as pieces."""

    def __init__(self, cutter: Cutter) -> None:
        self._cutter = cutter
        self._pieces: Iterator[types_pb2.Piece] = iter(())
        self._ended = False

    def next_piece(self) -> Generator[Pull, Any, types_pb2.Piece | None]:
        """The next piece; None at the end."""
        while True:
            piece = next(self._pieces, None)
            if piece is not None or self._ended:
                return piece
            item = yield Pull()
            self._ended = item is None
            self._pieces = self._cutter.end() if self._ended else self._cutter.cut(item)


class _Sending:
    """What a stream remembers from one connection to the next."""

    def __init__(self, options: StreamOptions, on_ack: OnAck | None) -> None:
        self.on_ack = on_ack
        self.source = _Source(Cutter(options.role, options.piece_bytes))
        self.outbox = _Outbox(options)
        self.window = options.window
        self.all_sent = False
        self.last: Ack | None = None

    def accept(self, response: memory_pb2.AppendStreamResponse | None) -> bool:
        """Note an ack; whether it acknowledges anything new. None is the daemon's early end."""
        if response is None:
            raise Unreachable("The stream ended before everything was acknowledged. Try again.")
        if not self.outbox.acknowledge(response.seq):
            return False
        self.last = Ack(
            seq=response.seq,
            offset=_responses.offset(response.offset),
            tail_bytes=response.tail_bytes,
            absorbed_tokens=response.absorbed_tokens,
            acked_bytes=self.outbox.acked_bytes,
        )
        if self.on_ack is not None:
            self.on_ack(self.last)
        return True

    def result(self) -> AppendResult | None:
        """The result, once everything is sent and acknowledged."""
        if not self.all_sent or self.outbox or self.last is None:
            return None
        return AppendResult(self.last.offset, self.last.tail_bytes)


def append_stream(
    options: StreamOptions, on_ack: OnAck | None, attempts: Attempts
) -> Flow[AppendResult]:
    """Send the whole source; emits where the stream stands when all of it is acknowledged.

    Pipelined: up to `window` messages are on their way, and the source is only read when there is
    room, so a slow model slows the source down.
    """
    sending = _Sending(options, on_ack)
    while (result := sending.result()) is None:
        try:
            yield from _one_connection(sending, attempts)
        except MemorydError as error:
            if sending.result() is None:
                yield Sleep(attempts.pause_after(error))
    yield Emit(result)


def _one_connection(sending: _Sending, attempts: Attempts) -> Flow[AppendResult]:
    yield Open(Rpc("memory", "AppendStream"), None, attempts.time_left())
    for message in sending.outbox:
        yield Write(message)
    while not sending.all_sent:
        full = len(sending.outbox) >= sending.window
        response = yield Read(wait=full)
        if response is not NOTHING_YET:
            if sending.accept(response):
                attempts.progress()
        elif (piece := (yield from sending.source.next_piece())) is not None:
            yield Write(sending.outbox.add(piece))
        else:
            sending.all_sent = True
    if sending.outbox.is_unused:
        raise EmptyStream("The source held no text. Give at least one character to append.")
    yield CloseWrites()
    while sending.outbox:
        if sending.accept((yield Read())):
            attempts.progress()
