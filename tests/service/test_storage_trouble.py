"""Redis full, away, slow or forgetful; memory full; the session taken: refused, and nothing lost.

One daemon with one slot on a server of its own, which every test leaves as it found it.
"""

import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from harness.calls import CHUNK, Calls, Refusal, piece, refusal, refused_for, told_by
from harness.daemons import DaemonProcess
from harness.processes import wait_until
from harness.redis_servers import RedisProcess, server_binaries
from lalte.checkpoints.tiny import write_tiny_model
from memoryd.storage.blobs import PART_BYTES
from memoryd.storage.keys import SessionKey, heartbeat_key
from memoryd_proto.errors import Reason
from memoryd_proto.v1 import memory_pb2, session_pb2

TEXT = b"something to remember about the first of many days. " * 3
HARD_LIMIT = 512


@dataclass
class World:
    folder: Path
    redis: RedisProcess
    daemon: DaemonProcess
    calls: Calls

    def restart_redis(self) -> None:
        self.redis = RedisProcess(self.folder / "redis", server_binaries()["valkey"])

    def meta(self, session: str, field: str) -> str:
        value = self.redis.raw.hget(SessionKey("default", session).meta, field)
        return "" if value is None else value.decode()

    def set_meta(self, session: str, **fields: object) -> None:
        self.redis.raw.hset(SessionKey("default", session).meta, mapping=fields)


@pytest.fixture(scope="module")
def running(tiny_model: Path) -> Iterator[World]:
    folder = Path(tempfile.mkdtemp(prefix="mds"))
    redis = RedisProcess(folder / "redis", server_binaries()["valkey"])
    try:
        daemon = DaemonProcess(
            folder / "a",
            model=tiny_model,
            redis_url=redis.url,
            slots=1,
            storage_deadline=2.0,
            backlog_soft_tokens=HARD_LIMIT,
            backlog_hard_tokens=HARD_LIMIT,
        )
        with Calls(daemon.address) as calls:
            world = World(folder, redis, daemon, calls)
            yield world
            redis = world.redis
        daemon.kill()
    finally:
        redis.kill()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def world(running: World) -> Iterator[World]:
    yield running
    running.redis.resume()
    running.redis.raw.config_set("maxmemory", 0)


@pytest.fixture
def session(world: World) -> str:
    name = world.calls.create()
    world.calls.append(name, TEXT)
    return name


def write_back(world: World, session: str) -> None:
    """Opening another session takes the only slot."""
    other = world.calls.create()
    world.calls.inspect(other)
    assert world.meta(session, "owner") == ""


def test_full_redis_refuses_appends_and_lets_checkpoints_through(world, session):
    calls = world.calls
    other = calls.create()
    calls.held(session)
    used = world.redis.raw.info("memory")["used_memory"]
    # Less is free than the reserve for checkpoints, and enough for one of them.
    world.redis.raw.config_set("maxmemory", used + 4 * PART_BYTES)

    def full() -> bool:
        # The daemon believes a figure of the server's memory for a second.
        try:
            calls.append(session, b"before it is noticed ")
        except grpc.RpcError as error:
            return told_by(error).reason == Reason.STORAGE_FULL.value
        return False

    wait_until(full, "the daemon notices")
    held = calls.held(session)
    found = refused_for(Reason.STORAGE_FULL, lambda: calls.append(session, b"refused"), "maxmemory")
    assert found.retry_after is not None
    refused_for(Reason.STORAGE_FULL, lambda: calls.chat(session, b"refused", "r"))
    refused_for(Reason.STORAGE_FULL, lambda: calls.create())
    assert calls.held(session) == held
    assert calls.query(session)[-1].completion.usage.memory_tokens == held.tokens

    calls.inspect(other)  # takes the only slot
    assert int(world.meta(session, "blob_offset")) == held.tokens - held.tokens % CHUNK
    assert calls.held(session) == held

    world.redis.raw.config_set("maxmemory", 0)

    def roomy() -> bool:
        try:
            calls.append(session, b"accepted")
        except grpc.RpcError:
            return False
        return True

    wait_until(roomy, "the daemon notices the room")
    assert calls.held(session).tokens > held.tokens


def test_absent_redis_is_unavailable_and_nothing_is_lost(world, session):
    calls = world.calls
    held = calls.held(session)
    answer = calls.query(session)
    world.redis.kill()
    for call in (
        lambda: calls.append(session, b"refused", writer_id="w", seq=1),
        lambda: calls.query(session),
        lambda: calls.get(session),
        lambda: calls.create(),
    ):
        refused_for(Reason.STORAGE_UNAVAILABLE, call)
    stale = calls.query(session, allow_stale=True)
    assert stale[-1].completion.stale
    assert not answer[-1].completion.stale
    assert [e.delta.token_ids for e in stale] == [e.delta.token_ids for e in answer]

    world.restart_redis()
    # The refused append was a write whose outcome nobody knew: sent again it is there once.
    calls.append(session, b"refused", writer_id="w", seq=1)
    calls.append(session, b"refused", writer_id="w", seq=1)
    twin = calls.create()
    calls.append(twin, TEXT)
    assert calls.held(twin).checksum == held.checksum
    calls.append(twin, b"refused")
    expected = calls.held(twin)
    after = calls.held(session)
    assert (after.tokens, after.checksum) == (expected.tokens, expected.checksum)


def test_an_append_whose_deadline_passed_is_applied_once(world, session):
    calls = world.calls
    calls.held(session)
    request = memory_pb2.AppendRequest(
        session=session, writer_id="w", seq=1, pieces=[piece(b"sent, and not waited for")]
    )
    world.redis.pause()
    found = refusal(lambda: calls.call(calls.memory.Append, request, timeout=0.5))
    assert (found.code, found.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "")
    world.redis.resume()
    calls.call(calls.memory.Append, request)
    twin = calls.create()
    calls.append(twin, TEXT)
    calls.append(twin, b"sent, and not waited for")
    expected, after = calls.held(twin), calls.held(session)
    assert (after.tokens, after.checksum) == (expected.tokens, expected.checksum)


def test_a_session_beyond_the_slots_waits_for_one(world, session):
    calls = world.calls
    held = calls.held(session)
    other = calls.create()
    message = memory_pb2.AppendStreamRequest(
        session=session, writer_id="w", seq=1, pieces=[piece(b"")]
    )
    more = threading.Event()

    def messages() -> Iterator[memory_pb2.AppendStreamRequest]:
        yield message
        more.wait()

    stream = calls.memory.AppendStream(messages())
    next(stream)  # the stream holds the only slot now
    try:
        found = refused_for(Reason.SLOTS_BUSY, lambda: calls.append(other, b"x"), "1 slots")
        assert found.retry_after is not None
    finally:
        more.set()
    assert list(stream) == []
    wait_until(lambda: served(lambda: calls.append(other, b"x")), "the slot is free")
    assert calls.held(session).tokens >= held.tokens


def served(call: Callable[[], object]) -> bool:
    try:
        call()
    except grpc.RpcError:
        return False
    return True


def test_a_backlog_beyond_the_hard_limit(world, session):
    calls = world.calls
    long = TEXT * 40
    end = 0
    refused: list[Refusal] = []

    def too_soon() -> bool:
        nonlocal end
        try:
            end = calls.append(session, long).offset.tokens
        except grpc.RpcError as error:
            refused.append(told_by(error))
        return bool(refused)

    wait_until(too_soon, "more is written than the model reads")
    [found] = refused
    assert found.reason == Reason.BACKLOG_FULL.value
    assert found.retry_after is not None
    assert int(found.facts["backlog"]) >= int(found.facts["limit"]) == HARD_LIMIT
    assert calls.get(session).acked_tokens == end
    wait_until(lambda: served(lambda: calls.append(session, b"in time")), "the model catches up")
    assert calls.get(session).acked_tokens > end


def test_a_session_that_another_owner_took(world, session):
    calls, raw = world.calls, world.redis.raw
    held = calls.held(session)
    world.set_meta(session, owner="another", epoch=int(world.meta(session, "epoch")) + 1)
    refused_for(Reason.OWNERSHIP_LOST, lambda: calls.append(session, b"refused"), "another")
    # The other one has no heartbeat, so this daemon may take the session back.
    assert calls.held(session) == held

    world.set_meta(session, owner="another", epoch=int(world.meta(session, "epoch")) + 1)
    raw.set(heartbeat_key("another"), "127.0.0.1:1")
    refused_for(Reason.OWNERSHIP_LOST, lambda: calls.append(session, b"refused"))
    for call in (lambda: calls.append(session, b"refused"), lambda: calls.query(session)):
        found = refused_for(Reason.OWNER_UNREACHABLE, call, "127.0.0.1:1")
        assert found.retry_after is not None
    with Calls(world.daemon.address, metadata={"memoryd-hop": "1"}) as passed_on:
        refused_for(Reason.OWNERSHIP_LOST, lambda: passed_on.append(session, b"refused"), "moved")
    raw.delete(heartbeat_key("another"))
    assert calls.held(session) == held


def test_a_query_of_a_session_that_another_owner_took(world, session):
    calls = world.calls
    held = calls.held(session)
    world.set_meta(session, owner="another", epoch=int(world.meta(session, "epoch")) + 1)
    # The daemon takes it back by itself, since the other one is gone.
    assert calls.query(session)[-1].completion.offset.tokens == held.tokens
    assert world.meta(session, "owner") != "another"
    assert calls.held(session) == held


def test_a_session_made_by_another_model(world, session):
    calls = world.calls
    held = calls.held(session)
    write_back(world, session)
    folder = world.folder / "other-model"
    write_tiny_model(folder, seed=1)
    other = DaemonProcess(world.folder / "b", model=folder, redis_url=world.redis.url)
    try:
        with Calls(other.address) as calls_there:
            for call in (
                lambda: calls_there.append(session, b"refused"),
                lambda: calls_there.query(session),
                lambda: calls_there.inspect(session),
            ):
                found = refused_for(Reason.MODEL_MISMATCH, call, "was made by model")
                assert found.facts["model"] != found.facts["session_model"]
    finally:
        other.kill()
    assert calls.held(session) == held


def test_redis_forgets_what_the_daemon_still_knows(world, session):
    calls = world.calls
    end = calls.append(session, b"acknowledged, and then forgotten by Redis").offset.tokens
    held = calls.held(session)
    journal = SessionKey("default", session).journal(held.generation)
    [(last, _), (before, _)] = world.redis.raw.xrevrange(journal, count=2)
    assert last == b"%d-0" % end
    survived = int(before.split(b"-")[0])
    world.redis.raw.delete(journal)
    world.set_meta(session, next=survived)
    world.redis.raw.xadd(journal, {"t": b"\0\0\0\0"}, id=before)
    calls.append(session, b"the next one")
    twin = calls.create()
    calls.append(twin, TEXT)
    calls.append(twin, b"acknowledged, and then forgotten by Redis")
    calls.append(twin, b"the next one")
    expected, after = calls.held(twin), calls.held(session)
    assert (after.tokens, after.checksum) == (expected.tokens, expected.checksum)


def test_redis_forgets_what_nobody_knows_any_more(world, session):
    calls = world.calls
    calls.held(session)
    write_back(world, session)
    held = calls.held(session)
    survived = int(world.meta(session, "blob_offset")) - CHUNK
    world.set_meta(session, next=survived)
    found = refused_for(Reason.ACKNOWLEDGED_LOST, lambda: calls.append(session, b"x"))
    assert int(found.facts["offset"]) == survived
    assert int(found.facts["acknowledged"]) == held.tokens
    # What is left contradicts its checkpoint, and that is never served.
    refused_for(Reason.STATE_CORRUPT, lambda: calls.query(session))


def test_a_deleted_session_is_gone_for_its_owner(world, session):
    calls = world.calls
    calls.held(session)
    generation = world.meta(session, "generation")
    world.redis.raw.delete(SessionKey("default", session).meta)
    found: Refusal = refused_for(Reason.SESSION_NOT_FOUND, lambda: calls.append(session, b"x"))
    assert session in found.message
    calls.call(calls.sessions.CreateSession, session_pb2.CreateSessionRequest(name=session))
    calls.append(session, b"a new life")
    assert calls.held(session).generation != generation
