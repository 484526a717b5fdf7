"""A daemon that is told to stop hands everything over, and says so to whoever is writing."""

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import grpc
import pytest

from harness.daemons import Cluster
from harness.processes import DEADLINE, wait_until
from harness.streams import AT_ONCE, CHUNK, ENDLESS, absorbed, memory, prose, reason
from memoryd.storage.keys import SessionKey, heartbeat_key
from memoryd.storage.records import parse_record
from memoryd_client import Draining, Role, Sampling
from memoryd_proto.v1 import memory_pb2, memory_pb2_grpc, types_pb2

TEXT = prose(seed=6, words=400).encode()
PIECES = [TEXT[at : at + 50] for at in range(0, len(TEXT), 50)]


def messages(name: str, after: int) -> Iterator[memory_pb2.AppendStreamRequest]:
    """The stream's messages behind number `after`, and its end."""
    contents: Sequence[bytes] = [*PIECES, b""]
    for seq, content in enumerate(contents[after:], start=after + 1):
        piece = types_pb2.Piece(
            role=types_pb2.ROLE_DOCUMENT, content=content, open=seq < len(contents)
        )
        yield memory_pb2.AppendStreamRequest(
            session=name, writer_id="writer", seq=seq, pieces=[piece]
        )


def stream_until_told_to_leave(address: str, name: str, stop: Callable[[], None]) -> int:
    """Streams half of TEXT and keeps the stream open; `stop` is called at the first ack.

    Gives the last ack that came before the daemon ended the stream.
    """
    acked = 0
    ended = threading.Event()

    def half() -> Iterator[memory_pb2.AppendStreamRequest]:
        yield from islice(messages(name, 0), len(PIECES) // 2)
        ended.wait(DEADLINE)

    with grpc.insecure_channel(address) as channel:
        try:
            for response in memory_pb2_grpc.MemoryServiceStub(channel).AppendStream(half()):
                assert response.seq == acked + 1
                acked = response.seq
                if acked == 1:
                    stop()
        except grpc.RpcError as error:
            if reason(error) != "DRAINING":
                raise
        else:
            raise AssertionError("the stream ended as if all had been written")
        finally:
            ended.set()
    assert acked > 0
    return acked


def go_on_elsewhere(pair: Cluster, name: str, acked: int) -> None:
    """Streams the rest to daemon b; the whole must be what one message would have made."""
    with grpc.insecure_channel(pair.b.address) as channel:
        stub = memory_pb2_grpc.MemoryServiceStub(channel)
        acks = [response.seq for response in stub.AppendStream(messages(name, acked))]
    assert acks == list(range(acked + 1, len(PIECES) + 2))
    pair.on_b.create_session(f"{name}-control")
    pair.on_b.append(f"{name}-control", TEXT, role=Role.DOCUMENT)
    assert memory(pair.on_b, name) == memory(pair.on_b, f"{name}-control")


def test_a_stopped_daemon_acknowledges_and_releases(pair: Cluster, name: str) -> None:
    leaving = pair.third(drain_timeout=300)
    with leaving.client() as client:
        daemon_id = client.get_stats().daemon_id
        client.create_session(name)
    acked = stream_until_told_to_leave(
        leaving.address, name, lambda: leaving.signal(signal.SIGTERM)
    )
    assert leaving.process.wait(DEADLINE) == 0
    key = SessionKey("default", name)
    assert parse_record(key, pair.redis.raw.hgetall(key.meta)).owner == ""
    assert not pair.redis.raw.exists(heartbeat_key(daemon_id))
    go_on_elsewhere(pair, name, acked)


def test_a_stopped_daemon_lets_go_of_streams_that_it_passes_on(pair: Cluster, name: str) -> None:
    pair.on_a.create_session(name)
    pair.on_a.inspect(name)  # daemon a owns it
    leaving = pair.third(drain_timeout=300)
    acked = stream_until_told_to_leave(
        leaving.address, name, lambda: leaving.signal(signal.SIGTERM)
    )
    assert leaving.process.wait(DEADLINE) == 0
    assert pair.on_b.get_session(name).owner == pair.a.address
    go_on_elsewhere(pair, name, acked)


def test_replies_under_way_are_finished_and_new_calls_refused(pair: Cluster, name: str) -> None:
    leaving = pair.third(drain_timeout=300, max_reply_tokens=ENDLESS)
    with leaving.client(retry=AT_ONCE) as client:
        client.create_session(name)
        client.append(name, TEXT)
        reply = client.query(name, "Go on.", sampling=Sampling(max_tokens=200))
        first = next(iter(reply))
        keeps_it_from_its_end = client.query(name, "On.", sampling=Sampling(max_tokens=ENDLESS))
        next(iter(keeps_it_from_its_end))
        leaving.signal(signal.SIGTERM)
        wait_until(lambda: client.get_stats().draining, "the daemon drains")
        with pytest.raises(Draining):
            client.append(name, "Too late.")
        keeps_it_from_its_end.close()
        assert first + reply.text()
        assert reply.completion.usage.completion_tokens == 200
    assert leaving.process.wait(DEADLINE) == 0


def test_the_drain_call_checkpoints_sessions_and_ends_the_daemon(pair: Cluster, name: str) -> None:
    leaving = pair.third()
    with leaving.client() as client:
        for number in range(3):
            client.create_session(f"{name}-{number}")
            client.append(f"{name}-{number}", "Too short for a checkpoint of its own.")
            absorbed(client, f"{name}-{number}")
        assert client.drain() == 3
    assert leaving.process.wait(DEADLINE) == 0
    for number in range(3):
        session = pair.on_b.get_session(f"{name}-{number}")
        assert session.owner == ""
        assert session.checkpoint_tokens == session.acked_tokens // CHUNK * CHUNK
