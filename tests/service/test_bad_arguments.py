"""Every field of every request out of its bounds: refused with a name, and nothing is lost."""

import contextlib
from collections.abc import Callable, Iterator

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from harness.calls import Calls, Held, piece, refusal, refused_for
from harness.daemons import DaemonProcess
from memoryd_proto.errors import Reason
from memoryd_proto.v1 import memory_pb2, session_pb2, types_pb2

LONG = "n" * 257
Create = session_pb2.CreateSessionRequest
List = session_pb2.ListSessionsRequest
Append = memory_pb2.AppendRequest
Query = memory_pb2.QueryRequest
Chat = memory_pb2.ChatRequest
PIECE = piece(b"text")


@pytest.fixture(scope="module")
def calls(daemon: DaemonProcess) -> Iterator[Calls]:
    with Calls(daemon.address) as calls:
        yield calls


@pytest.fixture(scope="module")
def session(calls: Calls) -> tuple[str, Held]:
    name = calls.create()
    calls.append(name, b"what is held must stay as it is, whatever is refused. " * 4)
    return name, calls.held(name)


@pytest.mark.parametrize("name", [LONG, "a\nb", "\0", "字" * 86])
def test_session_names_out_of_bounds(calls, name):
    requests = [
        (calls.sessions.CreateSession, Create(name=name)),
        (calls.sessions.GetSession, session_pb2.GetSessionRequest(name=name)),
        (calls.sessions.DeleteSession, session_pb2.DeleteSessionRequest(name=name)),
        (calls.sessions.InspectSession, session_pb2.InspectSessionRequest(name=name)),
        (calls.memory.Append, Append(session=name, pieces=[PIECE])),
        (calls.memory.Query, Query(session=name, question=b"?")),
        (calls.memory.Chat, Chat(session=name, message=b"?", request_id="r")),
        (
            calls.memory.AppendStream,
            iter([memory_pb2.AppendStreamRequest(session=name, writer_id="w", seq=1)]),
        ),
    ]
    for method, request in requests:
        refused_for(
            Reason.BAD_ARGUMENT, lambda m=method, r=request: calls.call(m, r), "session name"
        )


def test_an_empty_session_name_is_refused_everywhere_but_in_create(calls):
    refused_for(Reason.BAD_ARGUMENT, lambda: calls.get(""), "session name")
    refused_for(Reason.BAD_ARGUMENT, lambda: calls.append("", b"x"), "session name")
    assert calls.create("") != ""


CREATES = {
    "ttl too short": (Create(ttl=Duration(nanos=10)), "ttl"),
    "ttl negative": (Create(ttl=Duration(seconds=-5)), "ttl"),
    "ttl endless": (Create(ttl=Duration(seconds=10**13)), "ttl"),
    "too many labels": (Create(labels={str(n): "" for n in range(65)}), "labels"),
    "label without a name": (Create(labels={"": "x"}), "labels"),
    "label name too long": (Create(labels={"x" * 65: ""}), "labels"),
    "label value too long": (Create(labels={"x": "y" * 257}), "labels"),
    "model too long": (Create(model="m" * 20_000), "model"),
    "model not printable": (Create(model="m\n"), "model"),
}


@pytest.mark.parametrize("case", CREATES)
def test_create_arguments(calls, case):
    request, field = CREATES[case]
    request.name = f"never made: {case}"
    found = refused_for(
        Reason.BAD_ARGUMENT, lambda: calls.call(calls.sessions.CreateSession, request), field
    )
    assert found.facts["field"] == field
    refused_for(Reason.SESSION_NOT_FOUND, lambda: calls.get(request.name))


def test_an_unknown_model_is_not_found(calls):
    found = refused_for(Reason.MODEL_NOT_FOUND, lambda: calls.create("m", model="gpt-17"), "gpt-17")
    assert found.facts["model"]
    refused_for(Reason.SESSION_NOT_FOUND, lambda: calls.get("m"))


def test_a_name_that_is_taken(calls, session):
    name, held = session
    refused_for(Reason.SESSION_EXISTS, lambda: calls.create(name))
    assert calls.held(name) == held


LISTS = {
    "page size negative": (List(page_size=-1), "page_size"),
    "page size too large": (List(page_size=1001), "page_size"),
    "page token of another prefix": (List(prefix="b", page_token="a"), "page_token"),
}


@pytest.mark.parametrize("case", LISTS)
def test_list_arguments(calls, case):
    request, field = LISTS[case]
    refused_for(
        Reason.BAD_ARGUMENT, lambda: calls.call(calls.sessions.ListSessions, request), field
    )


INSPECTS = {
    "limit negative": ({"limit": -1}, "limit"),
    "no such layer": ({"layers": [99]}, "layers"),
    "layer negative": ({"layers": [-1]}, "layers"),
}


@pytest.mark.parametrize("case", INSPECTS)
def test_inspect_arguments(calls, session, case):
    fields, field = INSPECTS[case]
    name, held = session
    found = refused_for(Reason.BAD_ARGUMENT, lambda: calls.inspect(name, **fields), field)
    assert found.facts["field"] == field
    assert calls.held(name) == held


APPENDS = {
    "no pieces": (Append(), "pieces"),
    "too many pieces": (Append(pieces=[PIECE] * 10_001), "pieces"),
    "no role": (Append(pieces=[PIECE, types_pb2.Piece(content=b"x")]), "pieces[1].role"),
    "unknown role": (Append(pieces=[types_pb2.Piece(role=77)]), "pieces[0].role"),
    "seq without a writer": (Append(pieces=[PIECE], seq=1), "seq"),
    "seq 0": (Append(pieces=[PIECE], writer_id="w"), "seq"),
    "seq negative": (Append(pieces=[PIECE], writer_id="w", seq=-1), "seq"),
    "seq too large": (Append(pieces=[PIECE], writer_id="w", seq=2**62), "seq"),
    "writer too long": (Append(pieces=[PIECE], writer_id="w" * 129, seq=1), "writer_id"),
    "writer not printable": (Append(pieces=[PIECE], writer_id="\0chat:r", seq=1), "writer_id"),
    "offset negative": (
        Append(pieces=[PIECE], expected_offset=types_pb2.Offset(tokens=-1)),
        "offset.tokens",
    ),
    "generation too long": (
        Append(pieces=[PIECE], expected_offset=types_pb2.Offset(generation="g" * 20_000)),
        "offset.generation",
    ),
}


@pytest.mark.parametrize("case", APPENDS)
def test_append_arguments(calls, session, case):
    request, field = APPENDS[case]
    name, held = session
    request.session = name
    found = refused_for(
        Reason.BAD_ARGUMENT, lambda: calls.call(calls.memory.Append, request), field
    )
    assert found.facts["field"] == field
    assert calls.held(name) == held


def stream_message(seq: int, session: str = "", writer: str = "", role: int = 4):
    return memory_pb2.AppendStreamRequest(
        session=session, writer_id=writer, seq=seq, pieces=[piece(b"added ", role=role)]
    )


STREAMS = {
    "another session": (stream_message(2, session="other"), "session"),
    "another writer": (stream_message(2, writer="other"), "writer_id"),
    "seq 0": (stream_message(0), "seq"),
    "no role": (stream_message(2, role=0), "role"),
}


@pytest.mark.parametrize("case", STREAMS)
def test_append_stream_arguments(calls, case):
    second, field = STREAMS[case]
    name = calls.create()
    first = stream_message(1, session=name, writer="w")
    acked = calls.append(name, b"added ", writer_id="w", seq=1)
    held = calls.held(name)
    assert acked.offset.tokens == held.tokens
    refused_for(Reason.BAD_ARGUMENT, lambda: calls.stream([first, second]), field)
    assert calls.held(name) == held


def test_a_stream_without_a_writer(calls, session):
    name, held = session
    refused_for(
        Reason.BAD_ARGUMENT, lambda: calls.stream([stream_message(1, session=name)]), "writer_id"
    )
    assert calls.held(name) == held


def test_an_empty_stream(calls):
    refused_for(Reason.EMPTY_STREAM, lambda: calls.stream([]))


SAMPLINGS = {
    "temperature negative": types_pb2.Sampling(temperature=-0.1),
    "temperature too high": types_pb2.Sampling(temperature=10.5),
    "temperature not a number": types_pb2.Sampling(temperature=float("nan")),
    "top_p negative": types_pb2.Sampling(top_p=-0.5),
    "top_p above 1": types_pb2.Sampling(top_p=1.5),
    "top_k negative": types_pb2.Sampling(top_k=-1),
    "repetition_penalty below 1": types_pb2.Sampling(repetition_penalty=0.5),
    "repetition_penalty endless": types_pb2.Sampling(repetition_penalty=float("inf")),
    "max_tokens negative": types_pb2.Sampling(max_tokens=-1),
    "max_tokens too large": types_pb2.Sampling(max_tokens=1 << 20),
    "stop empty": types_pb2.Sampling(stop=[""]),
    "stop too long": types_pb2.Sampling(stop=["x" * 257]),
    "stop too many": types_pb2.Sampling(stop=["x"] * 17),
}


@pytest.mark.parametrize("case", SAMPLINGS)
def test_sampling_arguments(calls, session, case):
    field = "sampling." + case.split()[0]
    name, held = session
    for call in (
        lambda: calls.query(name, sampling=SAMPLINGS[case]),
        lambda: calls.chat(name, b"hello", "r", sampling=SAMPLINGS[case]),
    ):
        assert refused_for(Reason.BAD_ARGUMENT, call, field).facts["field"] == field
    assert calls.held(name) == held


QUERIES = {
    "no question": (Query(), "question"),
    "unknown freshness": (Query(question=b"?", freshness=9), "freshness"),
    "min_offset negative": (
        Query(question=b"?", min_offset=types_pb2.Offset(tokens=-1)),
        "offset.tokens",
    ),
}


@pytest.mark.parametrize("case", QUERIES)
def test_query_arguments(calls, session, case):
    request, field = QUERIES[case]
    name, held = session
    request.session = name
    found = refused_for(Reason.BAD_ARGUMENT, lambda: calls.call(calls.memory.Query, request), field)
    assert found.facts["field"] == field
    assert calls.held(name) == held


def test_nothing_to_read_at_all(calls):
    name = calls.create()
    found = refused_for(Reason.BAD_ARGUMENT, lambda: calls.query(name, b"", raw=True), "question")
    assert found.facts["field"] == "question"
    assert calls.held(name).tokens == 0


def test_a_question_that_is_too_long(calls, session):
    name, held = session
    found = refused_for(
        Reason.PROMPT_TOO_LONG, lambda: calls.query(name, b"why? " * 5000), "ask a shorter question"
    )
    assert int(found.facts["tokens"]) > int(found.facts["limit"])
    assert calls.held(name) == held


CHATS = {
    "no message": (Chat(request_id="r"), "message"),
    "no request id": (Chat(message=b"?"), "request_id"),
    "request id too long": (Chat(message=b"?", request_id="r" * 129), "request_id"),
    "request id not printable": (Chat(message=b"?", request_id="a\0"), "request_id"),
}


@pytest.mark.parametrize("case", CHATS)
def test_chat_arguments(calls, session, case):
    request, field = CHATS[case]
    name, held = session
    request.session = name
    found = refused_for(Reason.BAD_ARGUMENT, lambda: calls.call(calls.memory.Chat, request), field)
    assert found.facts["field"] == field
    assert calls.held(name) == held


def test_an_unknown_session_is_not_found(calls):
    name = "nobody made this"
    for call in (
        lambda: calls.get(name),
        lambda: calls.delete(name),
        lambda: calls.inspect(name),
        lambda: calls.append(name, b"x"),
        lambda: calls.query(name),
        lambda: calls.chat(name, b"x", "r"),
        lambda: calls.stream([stream_message(1, session=name, writer="w")]),
    ):
        refused_for(Reason.SESSION_NOT_FOUND, call, name)


OBJECTS = {
    "update without a name": ("UpdateSession", session_pb2.UpdateSessionRequest()),
    "a label too long": (
        "UpdateSession",
        session_pb2.UpdateSessionRequest(name="objects", labels={"a": LONG}),
    ),
    "a TTL too short": (
        "UpdateSession",
        session_pb2.UpdateSessionRequest(name="objects", ttl=Duration(nanos=1)),
    ),
    "a TTL below nothing": (
        "UpdateSession",
        session_pb2.UpdateSessionRequest(name="objects", ttl=Duration(seconds=-1)),
    ),
    "a fork without a name": ("ForkSession", session_pb2.ForkSessionRequest(name="objects")),
    "a fork's name too long": (
        "ForkSession",
        session_pb2.ForkSessionRequest(name="objects", new_name=LONG),
    ),
    "a snapshot without a name": (
        "SnapshotSession",
        session_pb2.SnapshotSessionRequest(name="objects"),
    ),
    "a snapshot's name too long": (
        "SnapshotSession",
        session_pb2.SnapshotSessionRequest(name="objects", snapshot=LONG),
    ),
    "a snapshot to list of no session": ("ListSnapshots", session_pb2.ListSnapshotsRequest()),
    "a snapshot to delete without a name": (
        "DeleteSnapshot",
        session_pb2.DeleteSnapshotRequest(name="objects"),
    ),
    "a restore without a name": (
        "RestoreSession",
        session_pb2.RestoreSessionRequest(name="objects"),
    ),
    "an export without a name": ("ExportSession", session_pb2.ExportSessionRequest()),
}


@pytest.mark.parametrize("case", OBJECTS)
def test_object_arguments(calls, case):
    method, request = OBJECTS[case]
    with contextlib.suppress(grpc.RpcError):
        calls.create("objects")
    held = calls.held("objects")
    refused_for(Reason.BAD_ARGUMENT, lambda: calls.call(getattr(calls.sessions, method), request))
    assert calls.held("objects") == held


def test_import_arguments(calls):
    def sent(*requests: session_pb2.ImportSessionRequest) -> Callable[[], object]:
        return lambda: calls.call(calls.sessions.ImportSession, iter(requests))

    message = session_pb2.ImportSessionRequest
    refused_for(Reason.EMPTY_STREAM, sent())
    refused_for(Reason.BAD_ARGUMENT, sent(message(name="")))
    refused_for(Reason.BAD_ARGUMENT, sent(message(name="a"), message(name="b")), "one session")
    refused_for(Reason.IMPORT_REFUSED, sent(message(name="a")), "ends after 0 bytes")
    refused_for(Reason.IMPORT_REFUSED, sent(message(name="a", data=b"no export")))
    refused_for(Reason.MESSAGE_TOO_LARGE, sent(message(name="a", data=b"\0" * (5 << 20))))


def test_what_is_no_request_breaks_nothing(calls, session):
    name, held = session
    append = calls.channel.unary_unary("/memoryd.v1.MemoryService/Append")
    refused_for(Reason.BAD_ARGUMENT, lambda: append(b"\xff\xff\xff"), "not a message of this call")
    nothing = calls.channel.unary_unary("/memoryd.v1.MemoryService/Nothing")
    assert refusal(lambda: nothing(b"")).code is grpc.StatusCode.UNIMPLEMENTED
    assert calls.held(name) == held


def test_the_greatest_seed_and_the_widest_sampling_are_taken(calls, session):
    name, held = session
    sampling = types_pb2.Sampling(
        temperature=10, top_k=2**31 - 1, top_p=1, repetition_penalty=10, seed=2**64 - 1,
        max_tokens=3, stop=["\0", "é" * 256],
    )  # fmt: skip
    completion = calls.query(name, sampling=sampling)[-1].completion
    assert completion.seed == 2**64 - 1
    assert calls.query(name, raw=True, reply_prefix=b" ")[-1].completion.usage.prompt_tokens > 0
    assert calls.held(name) == held
