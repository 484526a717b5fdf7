"""Archived sessions: what is kept, what is rebuilt from it, and how they change models."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from harness.calls import Calls, piece, refused_for
from harness.daemons import DaemonProcess
from harness.processes import wait_until
from harness.redis_servers import RedisProcess, server_binaries
from harness.streams import AT_ONCE, GREEDY, absorbed, memory, prose
from lalte.checkpoints.tiny import write_tiny_model
from lalte.presets import tiny_lalte
from memoryd.sessions.archive import Closed, Event, Frame, Replied, Said, frames
from memoryd.storage.keys import SessionKey
from memoryd_client import (
    Client,
    DifferenceKind,
    FinishReason,
    MemorydError,
    ModelMismatch,
    NotArchived,
    OwnershipLost,
    Rebuilding,
    Role,
    SessionExists,
    SessionMigrating,
    Turn,
)
from memoryd_proto.errors import Reason
from memoryd_proto.v1 import memory_pb2, session_pb2, types_pb2

KEY = "the export key of this deployment"
SLOTS = 8


@dataclass(frozen=True)
class World:
    """Two daemons of two models on one server. That of `new` has its own tokenizer, too."""

    redis: RedisProcess
    old: DaemonProcess
    new: DaemonProcess
    start: Callable[..., DaemonProcess]
    new_model: Path

    def keys_of(self, name: str) -> set[str]:
        return {key.decode() for key in self.redis.raw.keys(f"md1:{{*/{name}}}:*")}

    def stored(self, name: str) -> bytes:
        """The archive of a session's present generation."""
        key = SessionKey("default", name)
        generation = self.redis.raw.hget(key.meta, "generation").decode()
        entries = self.redis.raw.xrange(key.archive(generation))
        return b"".join(fields[b"a"] for _, fields in entries)

    def model_of(self, name: str) -> bytes:
        return self.redis.raw.hget(SessionKey("default", name).meta, "model")

    def events(self, name: str) -> list[Event]:
        return [event for frame, _ in frames(self.stored(name)) for event in frame.events]

    def alter(self, name: str, change: Callable[[Frame], bytes]) -> None:
        """Puts other frames in the archive's place, whoever owns the session."""
        key = SessionKey("default", name)
        generation = self.redis.raw.hget(key.meta, "generation").decode()
        stored = self.stored(name)
        changed = [change(frame) for frame, _ in frames(stored)]
        assert sum(map(len, changed)) == len(stored)
        self.redis.raw.delete(key.archive(generation))
        at = 0
        for packed in changed:
            at += len(packed)
            self.redis.raw.xadd(key.archive(generation), {"a": packed}, id=f"{at}-0")


@pytest.fixture(scope="module")
def world(tiny_model: Path) -> Iterator[World]:
    folder = Path(tempfile.mkdtemp(prefix="mds"))
    server = RedisProcess(folder / "redis", server_binaries()["valkey"])
    other = folder / "model"
    write_tiny_model(other, seed=1, config=tiny_lalte(vocab_size=400))
    started: list[DaemonProcess] = []

    def start(name: str, model: Path, **settings: object) -> DaemonProcess:
        given = {"checkpoint_tokens": 64, "export_key": KEY, "slots": SLOTS, **settings}
        running = DaemonProcess(folder / name, redis_url=server.url, model=model, **given)
        started.append(running)
        return running

    yield World(server, start("old", tiny_model), start("new", other), start, other)
    for running in started:
        running.kill()
    server.kill()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def old(world: World) -> Iterator[Client]:
    with world.old.client(retry=AT_ONCE) as client:
        yield client


@pytest.fixture
def new(world: World) -> Iterator[Client]:
    with world.new.client(retry=AT_ONCE) as client:
        yield client


def fill(client: Client, name: str, *, archive: bool = True) -> str:
    """A stream with every kind of event in it; gives the reply of its chat."""
    client.create_session(name, archive=archive)
    client.append(name, "Be brief, <|im_end|>.", role=Role.SYSTEM)
    client.append(name, [Turn(Role.USER, prose(1, 20)), Turn(Role.ASSISTANT, prose(2, 20))])
    client.append_stream(name, prose(3, 120), piece_bytes=50)
    reply = client.chat(name, "Who is there?", request_id="r1", sampling=GREEDY).text()
    client.append(name, prose(4, 30))
    return reply


def lengthen(client: Client, name: str) -> None:
    """So much that most of it is still to be read when a reader of it first tells how far it is."""
    for number in range(16):
        client.append(name, f"Line {number}.")
    for number in range(10):
        client.append(name, prose(number, 300), role=Role.DOCUMENT)


def given_up(world: World, client: Client, name: str) -> None:
    """The session is checkpointed and nobody's, as after a drain of its daemon."""
    absorbed(client, name)
    client.snapshot_session(name, "now")
    world.redis.raw.hset(SessionKey("default", name).meta, "owner", "")
    with pytest.raises(OwnershipLost):
        client.inspect(name)


def test_what_is_said_is_kept_as_it_was_sent(world, old, name):
    with Calls(world.old.address) as calls:
        calls.create(name, archive=True)
        naive = "naïve".encode()
        for at, part in enumerate((naive[:3], naive[3:])):
            calls.append(
                name,
                part,
                role=types_pb2.ROLE_USER,
                is_open=at == 0,
                writer_id="w",
                seq=at + 1,
            )
        calls.append(name, naive[3:], role=types_pb2.ROLE_USER, writer_id="w", seq=2)  # a retry
        request = memory_pb2.AppendRequest(
            session=name, pieces=[piece(b"a"), piece(b"", role=types_pb2.ROLE_USER)]
        )
        calls.call(calls.memory.Append, request)
    reply = old.chat(name, "Hello?", request_id="r", sampling=GREEDY).text()
    events = world.events(name)
    said = [event for event in events if isinstance(event, Said)]
    assert [(e.piece.role.value, e.piece.content, e.piece.open) for e in said] == [
        ("user", naive[:3], True),
        ("user", naive[3:], False),
        ("document", b"a", False),
        ("user", b"", False),
        ("user", b"Hello?", False),
        ("assistant", b"", True),
    ]
    assert [event.writer for event in said[:2]] == ["w", "w"]
    assert "".join(event.text for event in events if isinstance(event, Replied)) == reply
    assert events[-1] == Closed()
    assert [frame.next for frame, _ in frames(world.stored(name))][-1] == (
        old.get_session(name).acked_tokens
    )
    found = old.get_session(name)
    assert (found.archive, found.archive_bytes) == (True, len(world.stored(name)))


def test_an_archive_is_copied_pinned_expires_and_goes_with_its_session(world, old, name):
    fill(old, name)
    key, raw = SessionKey("default", name), world.redis.raw
    before = world.stored(name)
    old.snapshot_session(name, "early")
    first = old.get_session(name).generation
    old.append(name, "A later text.")
    longer = world.stored(name)
    assert longer.startswith(before)
    old.fork_session(name, f"{name}-fork")
    assert world.stored(f"{name}-fork") == longer
    data = b"".join(old.export_session(name))
    old.import_session(f"{name}-in", data)
    assert world.stored(f"{name}-in") == longer
    old.snapshot_session(name, "late")
    old.restore_session(name, "early")
    assert world.stored(name) == before
    old.append(name, "Another way.")
    old.restore_session(name, "late")  # its archive was kept for it
    assert world.stored(name) == longer
    generations = {k.rpartition(":")[2] for k in world.keys_of(name) if ":archive:" in k}
    assert generations == {first, old.get_session(name).generation}
    for copy in (name, f"{name}-fork", f"{name}-in"):
        assert old.verify_session(copy).equal
    old.delete_snapshot(name, "early")
    assert raw.exists(key.archive(first))
    old.delete_snapshot(name, "late")
    assert not raw.exists(key.archive(first))
    raw.hset(key.meta, "ttl_ms", "3600000")
    old.append(name, "and more")
    # A checkpoint may be staged just now, and expires on its own until it is committed.
    kept = {each for each in world.keys_of(name) if ":blob:" not in each}
    assert {raw.pexpiretime(each) for each in kept} == {raw.pexpiretime(key.meta)}
    assert any(":archive:" in each for each in kept)
    for each in (name, f"{name}-fork", f"{name}-in"):
        old.delete_session(each)
        assert world.keys_of(each) == set()


@pytest.mark.parametrize("archive", [True, False])
def test_a_rebuilt_memory_is_the_one_in_use_which_is_not_touched(old, name, archive):
    fill(old, name, archive=archive)
    before = memory(old, name)
    generation = old.get_session(name).generation
    seen: list[Rebuilding] = []
    found = old.verify_session(name, on_progress=seen.append)
    assert found.equal, found
    assert found.from_archive == archive
    assert found.state_checksum == found.rebuilt_checksum == before[2]
    assert found.offset.tokens == before[0] // 8 * 8
    assert (found.from_tokens > 0) == (not archive)
    assert seen
    assert seen[-1].read_tokens == found.offset.tokens
    assert memory(old, name) == before
    assert old.get_session(name).generation == generation
    slots = old.get_stats().slots_used
    old.verify_session(name)
    assert old.get_stats().slots_used == slots


def test_an_open_turn_and_a_tail_are_verified_too(world, old, name):
    with Calls(world.old.address) as calls:
        calls.create(name, archive=True)
        calls.append(name, b"An open turn without an en", is_open=True)
        assert old.verify_session(name).equal
        wait_until(lambda: old.get_session(name).absorbed_tokens > 0, "a chunk is read")
        assert old.verify_session(name).equal


def said_otherwise(frame: Frame, one: bytes, other: bytes) -> bytes:
    events = tuple(
        replace(e, piece=replace(e.piece, content=e.piece.content.replace(one, other)))
        if isinstance(e, Said)
        else e
        for e in frame.events
    )
    return Frame(frame.next, events).pack()


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        # One byte is one token in both: only the state can tell.
        (lambda frame: said_otherwise(frame, b"<|im_end|>", b"<|im_enz|>"), DifferenceKind.STATE),
        (lambda frame: said_otherwise(frame, b"there", b"q9zq9"), DifferenceKind.TOKENS),
        (lambda frame: frame.pack()[:-1] + b"\0", DifferenceKind.UNREADABLE),
        (lambda frame: replace(frame, next=frame.next + 1).pack(), DifferenceKind.TOKENS),
    ],
    ids=["state", "tokens", "unreadable", "offsets"],
)
def test_the_first_difference_is_named(world, old, name, change, kind):
    fill(old, name)
    memory(old, name)
    assert old.verify_session(name).equal
    world.alter(name, change)
    found = old.verify_session(name)
    assert found.difference is not None
    assert found.difference.kind is kind, found
    assert 0 <= found.difference.tokens <= found.offset.tokens
    assert len(found.difference.detail) > 20


def test_an_altered_checkpoint_is_found(world, old, name):
    fill(old, name, archive=False)
    absorbed(old, name)  # so that no later checkpoint takes the altered one's place
    old.snapshot_session(name, "now")
    key, raw = SessionKey("default", name), world.redis.raw
    generation, attempt = (v.decode() for v in raw.hmget(key.meta, "generation", "blob_attempt"))
    blob = key.blob(generation, attempt)
    part = bytearray(raw.hget(blob, "0"))
    part[len(part) // 2] ^= 1
    raw.hset(blob, "0", bytes(part))
    found = old.verify_session(name)
    assert found.difference is not None
    assert found.difference.kind is DifferenceKind.UNREADABLE


def test_a_cancelled_verification_gives_its_slot_back(world, old, name):
    fill(old, name)
    old.append(name, prose(5, 1000), role=Role.DOCUMENT)
    absorbed(old, name)
    with Calls(world.old.address) as calls:
        for _ in range(SLOTS):
            request = session_pb2.VerifySessionRequest(name=name, report_progress=True)
            running = calls.sessions.VerifySession(request)
            assert next(running).HasField("progress")
            running.cancel()
    with world.old.client() as patient:  # the last one may still be on its way out
        assert patient.verify_session(name).equal


def test_another_models_session_says_how_to_go_on(world, old, new, name):
    fill(old, name)
    fill(old, f"{name}-plain", archive=False)
    for each in (name, f"{name}-plain"):
        given_up(world, old, each)
    with pytest.raises(ModelMismatch, match="memoryd session migrate"):
        new.query(name, "Who?").text()
    with pytest.raises(ModelMismatch) as refused:
        new.query(f"{name}-plain", "Who?").text()
    assert "migrate" not in str(refused.value).partition("Serve")[0]
    with pytest.raises(NotArchived):
        new.migrate_session(f"{name}-plain")


def test_a_migrated_session_is_what_the_new_model_would_have_made_of_it(world, old, new, name):
    reply = fill(old, name)
    old.create_session(f"{name}-plain")
    given_up(world, old, name)
    before = old.get_session(name)
    seen: list[Rebuilding] = []
    migrated = new.migrate_session(name, on_progress=seen.append)
    assert world.model_of(name) != world.model_of(f"{name}-plain")
    assert migrated.generation != before.generation
    assert seen[-1].archive_bytes == seen[-1].target_archive_bytes == before.archive_bytes
    # The same, told to the new model from the start.
    told = f"{name}-told"
    new.create_session(told)
    new.append(told, "Be brief, <|im_end|>.", role=Role.SYSTEM)
    new.append(told, [Turn(Role.USER, prose(1, 20)), Turn(Role.ASSISTANT, prose(2, 20))])
    new.append(told, prose(3, 120), role=Role.DOCUMENT)
    new.append(told, [Turn(Role.USER, "Who is there?"), Turn(Role.ASSISTANT, reply)])
    new.append(told, prose(4, 30))
    assert memory(new, name) == memory(new, told)
    assert migrated.acked_tokens != before.acked_tokens  # it has a tokenizer of its own
    # It is an archived session like any other.
    assert new.verify_session(name).equal
    assert new.migrate_session(name) == replace(new.get_session(name), owner="")
    again = new.chat(name, "Who is there?", request_id="r1")
    assert (again.text(), again.completion.replayed) == (reply, True)
    assert len([key for key in world.keys_of(name) if ":journal:" in key]) <= 1


def test_a_copy_is_migrated_while_the_session_goes_on(world, old, new, name):
    fill(old, name)
    before = memory(old, name)
    copy = f"{name}-new"
    new.migrate_session(name, to=copy)
    assert world.model_of(copy) != world.model_of(name)
    assert new.verify_session(copy).equal
    assert memory(old, name) == before
    old.append(name, "It goes on.")
    with pytest.raises(SessionExists):
        new.migrate_session(name, to=copy)
    with pytest.raises(MemorydError, match="drain"):
        new.migrate_session(name)  # its daemon lives
    assert memory(old, name)[0] > before[0]


def test_retries_are_recognised_after_a_migration(world, old, new, name):
    old.create_session(name, archive=True)
    with Calls(world.old.address) as calls:
        for seq in (1, 2):
            calls.append(name, prose(seq, 20).encode(), writer_id="w", seq=seq)
        end = calls.get(name).acked_tokens
    given_up(world, old, name)
    migrated = new.migrate_session(name)
    with Calls(world.new.address) as calls:
        again = calls.append(name, prose(2, 20).encode(), writer_id="w", seq=2)
        assert again.replayed
        assert again.offset.tokens == migrated.acked_tokens != end
        refused_for(Reason.SEQUENCE_GAP, lambda: calls.append(name, b"x", writer_id="w", seq=4))
        calls.append(name, b"x", writer_id="w", seq=3)


def test_a_reply_that_broke_off_ends_with_the_old_model(world, old, new, name):
    old.create_session(name, archive=True)
    with Calls(world.old.address) as calls:
        request = memory_pb2.ChatRequest(
            session=name,
            message=b"Tell me much.",
            request_id="r",
            sampling=types_pb2.Sampling(max_tokens=1000),
        )
        running = calls.memory.Chat(request)
        assert next(running).HasField("delta")
        running.cancel()
        wait_until(lambda: not old.get_stats().lanes_used, "the reply has stopped")
        given_up(world, old, name)  # its snapshot waits until all of the reply is written
        # An open turn of a caller that vanished: the same request id could go on with it.
        kept = "".join(e.text for e in world.events(name) if isinstance(e, Replied))
        assert Closed() not in world.events(name)
    new.migrate_session(name)
    assert world.events(name)[-1] == Closed()
    again = new.chat(name, "Tell me much.", request_id="r")
    assert again.text() == kept
    assert again.completion.finish_reason is FinishReason.CANCELLED
    assert new.verify_session(name).equal


def test_calls_are_refused_while_a_session_migrates_and_a_death_leaves_it_whole(
    world, old, new, name
):
    fill(old, name)
    lengthen(old, name)
    given_up(world, old, name)
    stored, keys = world.stored(name), world.keys_of(name)
    dying = world.start(f"dying-{name}", world.new_model)
    refused: list[str] = []
    with dying.client(retry=AT_ONCE) as first, dying.client(retry=AT_ONCE) as second:

        def interfere(_: Rebuilding) -> None:
            for call in (
                lambda: second.append(name, "Now!"),
                lambda: second.migrate_session(name),
                lambda: second.delete_session(name),
                lambda: new.append(name, "From another daemon!"),
            ):
                with pytest.raises(SessionMigrating):
                    call()
                refused.append("refused")
            dying.kill()

        with pytest.raises(MemorydError):
            first.migrate_session(name, on_progress=interfere)
    assert refused == ["refused"] * 4
    assert world.stored(name) == stored
    key = SessionKey("default", name)
    world.redis.raw.hset(key.meta, "owner", "")  # its heartbeat would run out
    for left in world.keys_of(name) - keys:
        assert world.redis.raw.ttl(left) > 0
    new.migrate_session(name)
    assert new.verify_session(name).equal


def test_a_migration_that_is_left_gives_the_session_back(world, old, new, name):
    fill(old, name)
    lengthen(old, name)
    given_up(world, old, name)
    keys = world.keys_of(name)
    with Calls(world.new.address) as calls:
        request = session_pb2.MigrateSessionRequest(name=name, report_progress=True)
        running = calls.sessions.MigrateSession(request)
        assert next(running).HasField("progress")
        running.cancel()
    meta = SessionKey("default", name).meta
    wait_until(lambda: world.redis.raw.hget(meta, "owner") == b"", "the lease is given back")
    wait_until(lambda: world.keys_of(name) == keys, "nothing staged is left")
    assert old.verify_session(name).equal  # the old model serves it as before
