"""One daemon owns a session: others pass calls on, and one that lost it can do no harm."""

from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest

from harness.daemons import Cluster
from harness.processes import wait_until
from harness.streams import (
    AT_ONCE,
    CHUNK,
    GREEDY,
    absorbed,
    forget_heartbeat,
    memory,
    prose,
    reason,
)
from memoryd_client import (
    GenerationChanged,
    OwnerUnreachable,
    SessionNotFound,
)
from memoryd_proto.v1 import (
    memory_pb2,
    memory_pb2_grpc,
    session_pb2,
    session_pb2_grpc,
    types_pb2,
)


def test_every_call_to_the_wrong_daemon_is_passed_on_and_answered(pair: Cluster, name: str) -> None:
    pair.on_a.create_session(name)
    pair.on_a.append(name, prose(seed=1, words=30))
    held_by_b = pair.on_b.get_stats().sessions
    b = pair.on_b

    offset = b.append(name, "The river is blue.").offset
    streamed = b.append_stream(name, prose(seed=2, words=60), piece_bytes=64)
    assert streamed.offset.tokens > offset.tokens
    asked = b.query(name, "What is blue?", sampling=GREEDY)
    assert asked.text()
    assert asked.completion.usage.memory_tokens == streamed.offset.tokens
    talk = b.chat(name, "Hello.", request_id="r", sampling=GREEDY)
    assert talk.text() == pair.on_a.chat(name, "Hello.", request_id="r").text()
    session = absorbed(b, name)
    assert session.owner == pair.a.address
    assert session.offset == talk.completion.offset
    assert b.inspect(name, limit=1) == pair.on_a.inspect(name, limit=1)
    assert memory(b, name) == memory(pair.on_a, name)
    with pytest.raises(GenerationChanged):
        b.delete_session(name, generation="another")

    assert pair.on_b.get_stats().sessions == held_by_b, "the owner did the work"
    b.delete_session(name)
    with pytest.raises(SessionNotFound):
        pair.on_a.get_session(name)


def test_when_the_owner_is_killed_another_daemon_takes_over(pair: Cluster, name: str) -> None:
    text = prose(seed=3, words=200)
    control = f"{name}-control"
    doomed = pair.third()
    with doomed.client() as client:
        daemon_id = client.get_stats().daemon_id
        client.create_session(name)
        client.append(name, text)
    doomed.kill()
    with pair.b.client(retry=AT_ONCE) as impatient, pytest.raises(OwnerUnreachable):
        impatient.append(name, "Too early.")
    forget_heartbeat(pair.redis.raw, daemon_id)
    pair.on_b.create_session(control)
    pair.on_b.append(control, text)
    assert memory(pair.on_b, name) == memory(pair.on_b, control)
    assert pair.on_a.get_session(name).owner == pair.b.address


class Sleeper:
    """Daemon a, asleep while b takes its sessions over; calls sent to it wait in its socket."""

    def __init__(self, pair: Cluster) -> None:
        self._pair = pair
        self._daemon_id = pair.on_a.get_stats().daemon_id
        self.channel = grpc.insecure_channel(pair.a.address)
        grpc.channel_ready_future(self.channel).result(timeout=60)
        self.memory = memory_pb2_grpc.MemoryServiceStub(self.channel)
        self.sessions = session_pb2_grpc.SessionServiceStub(self.channel)

    def falls_asleep(self) -> None:
        self._pair.a.pause()
        forget_heartbeat(self._pair.redis.raw, self._daemon_id)

    def wakes(self) -> None:
        self._pair.a.resume()


@pytest.fixture
def sleeper(pair: Cluster) -> Iterator[Sleeper]:
    sleeper = Sleeper(pair)
    yield sleeper
    sleeper.wakes()
    sleeper.channel.close()


def append(name: str, text: bytes) -> memory_pb2.AppendRequest:
    piece = types_pb2.Piece(role=types_pb2.ROLE_DOCUMENT, content=text)
    return memory_pb2.AppendRequest(session=name, pieces=[piece])


def question(name: str) -> memory_pb2.QueryRequest:
    return memory_pb2.QueryRequest(
        session=name, question=b"And?", sampling=types_pb2.Sampling(max_tokens=1)
    )


def refused_or(answer: Callable[[], Any]) -> Any:
    """The answer, or None where the daemon says that it lost the session; nothing else will do."""
    try:
        return answer()
    except grpc.RpcError as error:
        if reason(error) != "OWNERSHIP_LOST":
            raise
        return None


def test_an_owner_that_slept_through_a_takeover_serves_and_writes_nothing_old(
    pair: Cluster, name: str, sleeper: Sleeper
) -> None:
    calls = ("query", "absorbed", "append", "stream", "inspect", "get", "chat")
    names = {call: f"{name}-{call}" for call in calls}
    for each in names.values():
        pair.on_a.create_session(each)
        pair.on_a.append(each, prose(seed=4, words=30))
        absorbed(pair.on_a, each)
    held = pair.on_a.get_stats().sessions
    sleeper.falls_asleep()
    ends = {}
    for call, each in names.items():
        ends[call] = pair.on_b.append(each, "This was said while the owner slept.").offset.tokens
        absorbed(pair.on_b, each)

    asked = sleeper.memory.Query(question(names["query"]))
    stale = question(names["absorbed"])
    stale.freshness = memory_pb2.FRESHNESS_ABSORBED
    asked_absorbed = sleeper.memory.Query(stale)
    appended = sleeper.memory.Append.future(append(names["append"], b"Late."))
    streamed = sleeper.memory.AppendStream(
        iter(
            [
                memory_pb2.AppendStreamRequest(
                    session=names["stream"],
                    writer_id="w",
                    seq=1,
                    pieces=append("", b"Late.").pieces,
                )
            ]
        )
    )
    inspected = sleeper.sessions.InspectSession.future(
        session_pb2.InspectSessionRequest(name=names["inspect"], limit=1)
    )
    got = sleeper.sessions.GetSession.future(session_pb2.GetSessionRequest(name=names["get"]))
    chatted = sleeper.memory.Chat(
        memory_pb2.ChatRequest(
            session=names["chat"],
            request_id="r",
            message=b"Late.",
            sampling=types_pb2.Sampling(max_tokens=4),
        )
    )
    sleeper.wakes()

    if answer := refused_or(lambda: list(asked)):
        assert answer[-1].completion.usage.memory_tokens == ends["query"]
    if answer := refused_or(lambda: list(asked_absorbed)):
        assert answer[-1].completion.usage.memory_tokens == ends["absorbed"] // CHUNK * CHUNK
    if answer := refused_or(appended.result):
        assert answer.offset.tokens > ends["append"]
    if answer := refused_or(lambda: list(streamed)):
        assert answer[-1].offset.tokens > ends["stream"]
    if answer := refused_or(inspected.result):
        expected = pair.on_b.inspect(names["inspect"], limit=1)
        assert answer.state_checksum == expected.state_checksum
    if answer := refused_or(got.result):
        assert answer.session.acked_tokens == ends["get"]
        assert answer.session.owner == pair.b.address
    if answer := refused_or(lambda: list(chatted)):
        assert answer[-1].completion.offset.tokens > ends["chat"]

    # Asked again it is right, whatever the first answer was.
    for each in names.values():
        assert memory(pair.on_a, each) == memory(pair.on_b, each)
    wait_until(
        lambda: pair.on_a.get_stats().sessions == held - len(names), "the old owner stepped down"
    )


def test_a_session_made_anew_refuses_what_was_meant_for_the_old_one(
    pair: Cluster, name: str
) -> None:
    pair.on_a.create_session(name)
    old = pair.on_a.append(name, "The first life.").offset
    pair.on_b.delete_session(name)
    new = pair.on_b.create_session(name)
    for client in (pair.on_a, pair.on_b):
        with pytest.raises(GenerationChanged):
            client.append(name, "A ghost.", expected_offset=old)
        with pytest.raises(GenerationChanged):
            client.query(name, "And?", min_offset=old).text()
    assert pair.on_a.get_session(name).offset == new.offset


def test_a_sleeping_owner_of_a_deleted_session_cannot_write_into_its_successor(
    pair: Cluster, name: str, sleeper: Sleeper
) -> None:
    pair.on_a.create_session(name)
    old = pair.on_a.append(name, prose(seed=5, words=30)).offset
    absorbed(pair.on_a, name)
    sleeper.falls_asleep()
    pair.on_b.delete_session(name)
    pair.on_b.create_session(name)
    new = pair.on_b.append(name, "The second life.").offset

    ghost = append(name, b"A ghost.")
    ghost.expected_offset.generation = old.generation
    ghost.expected_offset.tokens = old.tokens
    appended = sleeper.memory.Append.future(ghost)
    asked = sleeper.memory.Query(question(name))
    sleeper.wakes()
    with pytest.raises(grpc.RpcError) as refused:
        appended.result()
    # By the fence, or by the new owner.
    assert reason(refused.value) in ("OWNERSHIP_LOST", "GENERATION_CHANGED")
    if answer := refused_or(lambda: list(asked)):
        assert answer[-1].completion.offset == types_pb2.Offset(
            generation=new.generation, tokens=new.tokens
        )
    with pytest.raises(GenerationChanged):
        pair.on_a.append(name, "A ghost.", expected_offset=old)
    assert pair.on_a.get_session(name).offset == new
    assert memory(pair.on_a, name) == memory(pair.on_b, name)
