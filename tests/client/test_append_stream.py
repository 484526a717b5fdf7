"""A stream of any length arrives whole, once and in order, whatever breaks on the way."""

import io
import threading
from collections.abc import Iterator

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

import memoryd_client
from memoryd_client import Ack, Document, Offset, Piece, Role, Turn
from memoryd_client._append import Cutter
from memoryd_proto.v1 import memory_pb2, types_pb2

from .conftest import fail


class Journal:
    """A daemon's side of AppendStream: applies each (writer_id, seq) once and acknowledges it.

    break_after: message counts after which a connection breaks, one entry a connection; the ack
    of the last message before a break is lost with it.
    """

    def __init__(self, break_after: tuple[int, ...] = ()) -> None:
        self.break_after = list(break_after)
        self.applied: dict[tuple[str, int], list[types_pb2.Piece]] = {}
        self.connections = 0
        self.received: list[int] = []

    def handle(self, requests: Iterator[memory_pb2.AppendStreamRequest], context) -> Iterator:
        self.connections += 1
        limit = self.break_after.pop(0) if self.break_after else None
        for count, request in enumerate(requests, 1):
            assert request.session == "s"
            self.received.append(request.seq)
            known = [seq for writer, seq in self.applied if writer == request.writer_id]
            if request.seq > max(known, default=0):
                assert request.seq == max(known, default=0) + 1
                self.applied[request.writer_id, request.seq] = list(request.pieces)
            if count == limit:
                context.abort(grpc.StatusCode.UNAVAILABLE, "broken on purpose")
            yield self.ack(request.seq)

    def ack(self, seq: int) -> memory_pb2.AppendStreamResponse:
        return memory_pb2.AppendStreamResponse(
            seq=seq, offset=types_pb2.Offset(generation="g", tokens=10 * seq), tail_bytes=seq
        )

    @property
    def pieces(self) -> list[types_pb2.Piece]:
        return [piece for pieces in self.applied.values() for piece in pieces]

    @property
    def content(self) -> bytes:
        return b"".join(piece.content for piece in self.pieces)


TEXT = "".join(f"line {number}: wörds\n" for number in range(2000))


def sources(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8", newline="")
    return {
        "str": TEXT,
        "bytes": TEXT.encode(),
        "path": path,
        "binary file": io.BytesIO(TEXT.encode()),
        "text file": io.StringIO(TEXT),
        "lines": TEXT.splitlines(keepends=True),
        "generator": (line for line in [TEXT[:7], "", TEXT[7:]]),
    }


@pytest.mark.parametrize(
    "kind", ["str", "bytes", "path", "binary file", "text file", "lines", "generator"]
)
def test_every_kind_of_source_arrives_whole(server, connect, tmp_path, kind):
    journal = Journal()
    server.on("AppendStream", journal.handle)
    acks: list[Ack] = []
    result = connect(server.target).append_stream(
        "s", sources(tmp_path)[kind], piece_bytes=512, on_ack=acks.append
    )
    assert journal.content == TEXT.encode()
    assert max(len(piece.content) for piece in journal.pieces) <= 512
    assert {piece.role for piece in journal.pieces} == {types_pb2.ROLE_DOCUMENT}
    *opens, closing = [piece.open for piece in journal.pieces]
    assert all(opens)
    assert closing is False
    last = len(journal.applied)
    assert result == memoryd_client.AppendResult(Offset("g", 10 * last), last)
    assert [ack.seq for ack in acks] == sorted({ack.seq for ack in acks})
    assert acks[-1].acked_bytes == len(TEXT.encode())


@pytest.mark.parametrize("break_after", [(1,), (3, 1, 5), (2, 2, 2, 2)])
def test_a_broken_stream_goes_on_and_nothing_is_lost_or_doubled(server, connect, break_after):
    journal = Journal(break_after)
    server.on("AppendStream", journal.handle)
    connect(server.target).append_stream("s", TEXT, piece_bytes=1000, window=4)
    assert journal.content == TEXT.encode()
    assert len({writer for writer, _seq in journal.applied}) == 1
    assert journal.connections == len(break_after) + 1


def test_a_stream_resumes_behind_the_last_ack(server, connect):
    journal = Journal((3,))
    server.on("AppendStream", journal.handle)
    connect(server.target).append_stream("s", ["a", "b", "c", "d"], window=1)
    # 1 and 2 were acknowledged, so that only 3 is sent again; 5 closes the document.
    assert journal.received == [1, 2, 3, 3, 4, 5]


def test_a_daemon_that_dies_and_comes_back_is_found_again(connect):
    from .conftest import ScriptedServer

    journal = Journal()
    first = ScriptedServer()
    second: list[ScriptedServer] = []

    def restart():
        first.stop()
        second.append(ScriptedServer(first.port))
        second[0].on("AppendStream", journal.handle)

    restarting = threading.Thread(target=restart)

    def dying(requests, context):
        for count, response in enumerate(journal.handle(requests, context)):
            yield response
            if count == 2:
                restarting.start()
                first.stopping.wait()
                return

    first.on("AppendStream", dying)
    client = connect(first.target)
    client.append_stream("s", TEXT.splitlines(keepends=True), window=2)
    restarting.join()
    assert journal.content == TEXT.encode()
    assert second[0].metadata
    second[0].stop()


def test_no_more_than_the_window_is_unacknowledged_and_the_source_waits(server, connect):
    taken: list[int] = []
    arrived = threading.Semaphore(0)
    let_go = threading.Event()
    journal = Journal()

    def source():
        for number in range(50):
            taken.append(number)
            yield f"{number} "

    def withholding(requests, context):
        held = []
        for request in requests:
            held.append(request)
            if len(held) == 5:
                # The window is full: nothing else may come before the first ack.
                arrived.release()
                let_go.wait()
                break
        yield from journal.handle(iter(held), context)
        yield from journal.handle(requests, context)

    server.on("AppendStream", withholding)
    client = connect(server.target)

    def watch():
        arrived.acquire()
        seen.append(len(taken))
        let_go.set()

    seen: list[int] = []
    watcher = threading.Thread(target=watch)
    watcher.start()
    client.append_stream("s", source(), window=5)
    watcher.join()
    assert seen == [5]
    assert len(taken) == 50
    assert len(journal.applied) == 51


def test_acks_arrive_while_a_slow_source_goes_on(server, connect):
    journal = Journal()
    server.on("AppendStream", journal.handle)
    acked = []

    def source():
        # Endless until the first ack was reported: without it this test would never end.
        while not acked:
            yield "x"

    connect(server.target).append_stream("s", source(), window=10**9, on_ack=acked.append)
    assert acked


def test_an_ack_that_says_nothing_new_is_not_reported(server, connect):
    journal = Journal()

    def stammering(requests, context):
        for request in requests:
            for response in journal.handle(iter([request]), context):
                yield response
                yield response

    server.on("AppendStream", stammering)
    acked = []
    connect(server.target).append_stream("s", ["a", "b", "c"], window=1, on_ack=acked.append)
    assert [ack.seq for ack in acked] == [1, 2, 3, 4]


def test_turns_and_documents_stand_for_themselves(server, connect):
    journal = Journal()
    server.on("AppendStream", journal.handle)
    source = [
        "open ",
        "text",
        Turn(Role.USER, "abcde"),
        Document("doc"),
        Piece(Role.RAW, "raw", open=True),
        "tail",
    ]
    connect(server.target).append_stream("s", source, role=Role.ASSISTANT, piece_bytes=4)
    user, assistant = types_pb2.ROLE_USER, types_pb2.ROLE_ASSISTANT
    assert [(p.role, p.content, p.open) for p in journal.pieces] == [
        (assistant, b"open", True),
        (assistant, b" ", True),
        (assistant, b"text", True),
        (assistant, b"", False),
        (user, b"abcd", True),
        (user, b"e", False),
        (types_pb2.ROLE_DOCUMENT, b"doc", False),
        (types_pb2.ROLE_RAW, b"raw", True),
        (assistant, b"tail", True),
        (assistant, b"", False),
    ]


def test_an_empty_source_is_refused(server, connect):
    server.on("AppendStream", Journal().handle)
    for source in ("", [], io.BytesIO(b"")):
        with pytest.raises(memoryd_client.EmptyStream):
            connect(server.target).append_stream("s", source)


def test_a_refusal_ends_the_stream(server, connect):
    def refuse(requests, context):
        next(requests)
        fail(context, "SESSION_NOT_FOUND")
        yield

    server.on("AppendStream", refuse)
    with pytest.raises(memoryd_client.SessionNotFound):
        connect(server.target).append_stream("s", ["x"] * 100)


def test_a_full_backlog_is_waited_for(server, connect):
    journal = Journal()

    def full(requests, context):
        next(requests)
        fail(context, "BACKLOG_FULL", retry_after=0.001)
        yield

    server.on("AppendStream", full, full, journal.handle)
    connect(server.target).append_stream("s", TEXT)
    assert journal.content == TEXT.encode()


def test_an_early_end_without_acks_is_not_taken_for_success(server, connect):
    def silent(requests, context):
        next(requests)
        yield from ()

    server.on("AppendStream", silent)
    retry = memoryd_client.Retry(give_up_after=0)
    with pytest.raises(memoryd_client.Unreachable, match="acknowledged"):
        connect(server.target, retry=retry).append_stream("s", "text")


def test_what_the_source_raises_reaches_the_caller_and_ends_the_call(server, connect):
    started, ended = threading.Event(), threading.Event()

    def handle(requests, context):
        context.add_callback(ended.set)
        started.set()
        yield from Journal().handle(requests, context)

    server.on("AppendStream", handle)

    def source():
        yield "fine"
        started.wait(60)
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        connect(server.target).append_stream("s", source())
    assert ended.wait(60)


def test_the_same_writer_id_and_source_append_nothing_new(server, connect):
    journal = Journal()
    server.on("AppendStream", journal.handle)
    client = connect(server.target)
    for _ in range(2):
        client.append_stream("s", TEXT, writer_id="w", piece_bytes=1000)
    assert journal.content == TEXT.encode()


def test_a_window_without_room_is_refused(server, connect):
    with pytest.raises(memoryd_client.BadArgument, match="window"):
        connect(server.target).append_stream("s", "x", window=0)


async def test_an_async_iterable_is_a_source(server):
    journal = Journal()
    server.on("AppendStream", journal.handle)

    async def source():
        for part in ("a", b"b", "c"):
            yield part

    async with memoryd_client.AsyncClient(server.target) as client:
        await client.append_stream("s", source())
    assert journal.content == b"abc"


@given(
    items=st.lists(st.text() | st.builds(Turn, st.sampled_from(Role), st.text())),
    piece_bytes=st.integers(1, 9),
)
def test_cutting_keeps_every_byte_and_bounds_every_piece(items, piece_bytes):
    cutter = Cutter(Role.DOCUMENT, piece_bytes)
    pieces = [piece for item in items for piece in cutter.cut(item)]
    pieces += cutter.end()
    whole = "".join(item if isinstance(item, str) else item.content for item in items)
    assert b"".join(piece.content for piece in pieces) == whole.encode()
    assert all(len(piece.content) <= piece_bytes for piece in pieces)
    assert not pieces or not pieces[-1].open
