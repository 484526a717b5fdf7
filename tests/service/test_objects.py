"""Sessions as objects: what a copy holds, what a restore undoes, what a file is refused for."""

import json
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import timedelta
from hashlib import sha256
from io import BytesIO
from pathlib import Path

import pytest
import redis

from harness.calls import Calls
from harness.daemons import DaemonProcess
from harness.files import write_file
from harness.redis_servers import RedisProcess, server_binaries
from harness.streams import GREEDY, checkpointed, memory, prose
from lalte.checkpoints.tiny import write_tiny_model
from memoryd.storage.codec import Array, Expectation, body_digest, decode_state, encode_state
from memoryd.storage.cut import Cut
from memoryd.storage.keys import SessionKey
from memoryd.storage.portable import FileReader
from memoryd_client import (
    BadArgument,
    Client,
    GenerationChanged,
    ImportRefused,
    MemorydError,
    ModelMismatch,
    Offset,
    Retry,
    Role,
    Sampling,
    SessionExists,
    SessionNotFound,
    SignatureRefused,
    SnapshotExists,
    SnapshotNotFound,
    StateCorrupt,
)

KEY = "the export key of this deployment"
CHECKPOINT_TOKENS = 64


@dataclass(frozen=True)
class World:
    """One daemon on a server of its own, so that every key in it is known."""

    redis: RedisProcess
    daemon: DaemonProcess
    start: Callable[..., DaemonProcess]

    def keys(self, *of: str) -> set[str]:
        """All keys of the sessions named, and of any other all that stay when it is checkpointed.

        Others that a test before this one has left may still be read.
        """
        found = {name.decode() for name in self.redis.raw.keys("md1:*")}
        return {
            key
            for key in found
            if not key.endswith(":heartbeat")
            and (":blob:" not in key or any(f"/{name}}}" in key for name in of))
        }

    def keys_of(self, name: str) -> set[str]:
        return {key for key in self.keys(name) if f"/{name}}}" in key}


@pytest.fixture(scope="module")
def world(tiny_model: Path) -> Iterator[World]:
    folder = Path(tempfile.mkdtemp(prefix="mds"))
    server = RedisProcess(folder / "redis", server_binaries()["valkey"])
    started: list[DaemonProcess] = []

    def start(name: str, **settings: object) -> DaemonProcess:
        given = {
            "model": tiny_model,
            "checkpoint_tokens": CHECKPOINT_TOKENS,
            "export_key": KEY,
            **settings,
        }
        running = DaemonProcess(folder / name, redis_url=server.url, **given)
        started.append(running)
        return running

    yield World(server, start("a"), start)
    for running in started:
        running.kill()
    server.kill()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def client(world: World) -> Iterator[Client]:
    with world.daemon.client(retry=Retry(give_up_after=0)) as client:
        yield client


@pytest.fixture
def filled(client: Client, name: str) -> str:
    """A session with checkpoints, an unread rest, a stored reply, labels and a time to live."""
    client.create_session(name, labels={"kind": "test"}, ttl=timedelta(hours=1))
    client.append(name, prose(1, 60), role=Role.DOCUMENT)
    client.chat(name, "Who is there?", request_id="r1", sampling=GREEDY).text()
    return name


def test_a_fork_is_equal_and_goes_its_own_way(client, filled, name):
    copy = f"{name}-copy"
    forked = client.fork_session(filled, copy)
    source = client.get_session(filled)
    assert (forked.name, forked.acked_tokens) == (copy, source.acked_tokens)
    assert forked.generation != source.generation
    assert (forked.labels, forked.ttl, forked.tail_bytes) == (
        source.labels,
        source.ttl,
        source.tail_bytes,
    )
    before = memory(client, filled)
    assert memory(client, copy) == before
    client.append(copy, "A text that only the copy has seen.")
    assert memory(client, copy)[0] > before[0]
    assert memory(client, filled) == before
    with pytest.raises(SessionExists):
        client.fork_session(filled, copy)
    with pytest.raises(SessionNotFound):
        client.fork_session("nobody", f"{name}-other")
    client.delete_session(filled)
    client.query(copy, "Still there?", sampling=GREEDY).text()


def test_a_copy_goes_on_with_the_open_turn_and_knows_its_writer(world, client, name):
    with Calls(world.daemon.address) as calls:
        calls.create(name)
        half = "A turn that breaks off within é".encode()[:-1]
        first = calls.append(name, half, is_open=True, writer_id="w", seq=1)
        client.fork_session(name, f"{name}-copy")
        client.snapshot_session(name, "s")
        file = b"".join(client.export_session(name))
        client.restore_session(name, "s")
        client.import_session(f"{name}-in", file)
        seen = set()
        for copy in (name, f"{name}-copy", f"{name}-in"):
            again = calls.append(copy, half, is_open=True, writer_id="w", seq=1)
            assert (again.replayed, again.offset.tokens) == (True, first.offset.tokens)
            assert again.tail_bytes == first.tail_bytes > 0
            calls.append(copy, "é".encode()[1:] + b" and goes on.", writer_id="w", seq=2)
            seen.add((calls.held(copy).tokens, calls.held(copy).checksum))
        assert len(seen) == 1


def test_a_fork_of_an_empty_session(client, name):
    client.create_session(name)
    assert client.fork_session(name, f"{name}-copy").acked_tokens == 0
    client.append(f"{name}-copy", "a text")


def test_a_fork_costs_the_same_at_any_length(world, client, name):
    """Bytes that it puts into Redis, by the session's keys."""

    def size(of: str) -> int:
        return sum(world.redis.raw.memory_usage(key) for key in world.keys_of(of))

    client.create_session(name)
    sizes = []
    for turn, words in enumerate((100, 800, 3200)):
        client.append(name, prose(turn, words), role=Role.DOCUMENT)
        memory(client, name)
        client.fork_session(name, f"{name}-{turn}")
        sizes.append(size(f"{name}-{turn}"))
    assert max(sizes) - min(sizes) <= 8192, sizes  # a journal entry, or none


def test_a_retried_chat_is_recognised_by_the_copy(client, filled, name):
    client.fork_session(filled, f"{name}-copy")
    before = client.get_session(f"{name}-copy").acked_tokens
    first = client.chat(filled, "Who is there?", request_id="r1", sampling=GREEDY)
    again = client.chat(f"{name}-copy", "Who is there?", request_id="r1", sampling=GREEDY)
    assert again.text() == first.text()
    assert again.completion.replayed
    assert client.get_session(f"{name}-copy").acked_tokens == before


def test_update_sets_and_removes_labels_and_ttl(world, client, filled):
    client.query(filled, "Open?", sampling=GREEDY).text()  # it is in memory
    changed = client.update_session(filled, ttl=timedelta(hours=2), labels={"kind": "", "new": "1"})
    assert (changed.ttl, changed.labels) == (timedelta(hours=2), {"new": "1"})
    client.append(filled, "more")
    checkpointed(client, filled, CHECKPOINT_TOKENS)  # a state that is being stored has its own
    for key in world.keys_of(filled):
        assert 3_600_000 < world.redis.raw.pttl(key) <= 7_200_000
    assert client.update_session(filled, labels={"other": "2"}).labels == {"new": "1", "other": "2"}
    assert client.update_session(filled, ttl=timedelta()).ttl is None
    client.append(filled, "more")
    checkpointed(client, filled, CHECKPOINT_TOKENS)
    assert {world.redis.raw.pttl(key) for key in world.keys_of(filled)} == {-1}
    assert client.get_session(filled).labels == {"new": "1", "other": "2"}
    with pytest.raises(BadArgument):
        client.update_session(filled, labels={f"l{n}": "x" for n in range(64)})
    with pytest.raises(BadArgument):
        client.update_session(filled, ttl=timedelta(milliseconds=1))
    with pytest.raises(SessionNotFound):
        client.update_session("nobody", labels={"a": "1"})


def test_a_restore_brings_back_what_the_snapshot_saw(world, client, filled):
    before = memory(client, filled)
    taken = client.snapshot_session(filled, "then")
    old = client.get_session(filled)
    assert taken.offset == old.offset
    writer = client.writer(filled)
    for turn in range(4):
        writer.append(prose(turn, 60))
    after = client.get_session(filled)
    assert memory(client, filled)[0] > before[0]

    restored = client.restore_session(filled, "then")
    assert restored.generation != old.generation
    assert (restored.acked_tokens, restored.labels) == (before[0], old.labels)
    assert restored.create_time == old.create_time
    assert memory(client, filled) == before
    with pytest.raises(GenerationChanged):
        client.append(filled, "x", expected_offset=after.offset)
    with pytest.raises(GenerationChanged):
        client.query(filled, "x", min_offset=Offset(old.generation, 1)).text()
    assert [key for key in world.keys_of(filled) if key.endswith(f"journal:{old.generation}")] == []

    client.append(filled, prose(9, 30))
    assert client.restore_session(filled, "then").generation != restored.generation
    assert memory(client, filled) == before


def test_snapshots_are_listed_and_deleted(world, client, filled):
    first = client.snapshot_session(filled, "first")
    client.append(filled, prose(3, 200))
    memory(client, filled)
    second = client.snapshot_session(filled, "second / {x}")
    assert client.list_snapshots(filled) == [first, second]
    with pytest.raises(SnapshotExists):
        client.snapshot_session(filled, "first")
    with pytest.raises(BadArgument):
        client.snapshot_session(filled, "")
    client.delete_snapshot(filled, "first")
    assert client.list_snapshots(filled) == [second]
    for refused in (
        lambda: client.delete_snapshot(filled, "first"),
        lambda: client.restore_session(filled, "first"),
    ):
        with pytest.raises(SnapshotNotFound):
            refused()
    for refused in (
        lambda: client.list_snapshots("nobody"),
        lambda: client.restore_session("nobody", "first"),
        lambda: client.snapshot_session("nobody", "first"),
    ):
        with pytest.raises(SessionNotFound):
            refused()
    client.delete_session(filled)
    assert world.keys_of(filled) == set()


def test_a_snapshot_survives_the_daemon(world, client, filled):
    before = memory(client, filled)
    client.snapshot_session(filled, "then")
    other = world.start("b")
    with other.client() as on_other:
        on_other.append(filled, prose(5, 100))  # forwarded
        other_memory = memory(on_other, filled)
        assert on_other.restore_session(filled, "then").acked_tokens == before[0]
        assert memory(client, filled) == before != other_memory
        assert on_other.fork_session(filled, f"{filled}-b").acked_tokens == before[0]
        assert memory(on_other, f"{filled}-b") == before
        assert b"".join(on_other.export_session(filled))
    other.kill()


def settled(client: Client, name: str) -> bytes:
    """The session's file, once all is read and no checkpoint is being written any more."""
    memory(client, name)
    return b"".join(client.export_session(name))


def altered(world: World, name: str, change: Callable[["redis.Redis", SessionKey, str], object]):
    key = SessionKey("default", name)
    raw = world.redis.raw
    generation, _, attempt = raw.hget(key.meta, "snap:s").decode().partition(":")
    change(raw, key, key.blob(generation, attempt))


def flip(data: bytes, at: int) -> bytes:
    changed = bytearray(data)
    changed[at] ^= 4
    return bytes(changed)


@pytest.mark.parametrize(
    "change",
    [
        lambda raw, key, blob: raw.hset(key.snap("s"), "cut", raw.hget(key.snap("s"), "cut")[:-1]),
        lambda raw, key, blob: raw.hset(
            key.snap("s"), "cut", flip(raw.hget(key.snap("s"), "cut"), 40)
        ),
        lambda raw, key, blob: raw.hset(blob, "0", flip(raw.hget(blob, "0"), 3000)),
        lambda raw, key, blob: raw.hset(blob, "0", raw.hget(blob, "0")[:-7]),
        lambda raw, key, blob: raw.hset(blob, "0", b""),
        lambda raw, key, blob: raw.delete(blob),
    ],
    ids=["cut short", "cut flipped", "state flipped", "state short", "state empty", "state gone"],
)
def test_an_altered_snapshot_is_refused_and_the_session_goes_on(world, client, filled, change):
    client.snapshot_session(filled, "s")
    client.append(filled, prose(7, 200))
    settled(client, filled)
    before = memory(client, filled)
    altered(world, filled, change)
    keys = world.keys(filled)
    with pytest.raises(StateCorrupt):
        client.restore_session(filled, "s")
    assert memory(client, filled) == before
    assert world.keys(filled) == keys


def test_an_export_is_imported_equal(world, client, filled, name, tmp_path):
    path = tmp_path / "session.memoryd"
    path.write_bytes(b"".join(client.export_session(filled)))
    before = memory(client, filled)
    for number, source in enumerate(
        (path, path.read_bytes(), BytesIO(path.read_bytes()), iter([path.read_bytes()]))
    ):
        made = client.import_session(f"{name}-in{number}", source)
        assert (made.acked_tokens, made.labels) == (before[0], {"kind": "test"})
        assert memory(client, made.name) == before
    with pytest.raises(SessionExists):
        client.import_session(filled, path)
    client.create_session(f"{name}-empty")
    empty = b"".join(client.export_session(f"{name}-empty"))
    assert client.import_session(f"{name}-in-empty", empty).acked_tokens == 0
    with pytest.raises(SessionNotFound):
        b"".join(client.export_session("nobody"))


def test_every_damaged_file_is_refused_and_nothing_is_left(world, client, filled):
    data = settled(client, filled)
    draw = random.Random(11)
    keys = world.keys(filled, "damaged")

    def refused(damaged: bytes, kind: type[MemorydError] = ImportRefused) -> None:
        with pytest.raises(kind):
            client.import_session("damaged", damaged)

    for length in (
        0,
        7,
        11,
        12,
        200,
        *(draw.randrange(len(data)) for _ in range(20)),
        len(data) - 1,
    ):
        refused(data[:length])
    for at in (0, 9, 30, *(draw.randrange(len(data)) for _ in range(60)), len(data) - 20):
        refused(flip(data, at))
    refused(data + b"\0")
    refused(b"\0" * 10_000)
    assert world.keys(filled, "damaged") == keys
    with pytest.raises(SessionNotFound):
        client.get_session("damaged")


def test_only_signed_files_are_taken_unless_settings_say_so(world, client, keyless, filled, name):
    data = settled(client, filled)
    keys = world.keys(filled, f"{name}-x")
    strict = world.start("other-key", export_key="another key of another place")
    with strict.client() as on_strict:
        with pytest.raises(SignatureRefused):
            on_strict.import_session(f"{name}-x", data)
        assert world.keys(filled, f"{name}-x") == keys
    strict.kill()
    keys_file = [
        {"tenant": "default", "sha256": sha256(key.encode()).hexdigest(), "scopes": scopes}
        for key, scopes in (("boss", ["read", "write", "admin"]), ("hand", ["read", "write"]))
    ]
    lenient = world.start(
        "lenient",
        export_key="another key of another place",
        import_unsigned=True,
        api_keys=json.dumps(keys_file),
    )
    with lenient.client(api_key="hand") as hand, lenient.client(api_key="boss") as boss:
        with pytest.raises(SignatureRefused):
            hand.import_session(f"{name}-l", data)
        assert boss.import_session(f"{name}-l", data).acked_tokens
        signed_here = b"".join(hand.export_session(f"{name}-l"))
        assert hand.import_session(f"{name}-h", signed_here).acked_tokens
    lenient.kill()
    with keyless.client() as on_keyless:
        on_keyless.import_session(f"{name}-k", data)
        unsigned = b"".join(on_keyless.export_session(f"{name}-k"))
    assert len(unsigned) < len(data) + 100
    with pytest.raises(SignatureRefused):
        client.import_session(f"{name}-u", unsigned)


def forged(data: bytes, change: Callable[[Cut, dict[str, Array]], Cut]) -> bytes:
    """A file altered by somebody who mends every digest, but has no key to sign it."""
    reader = FileReader(None, len(data), len(data))
    reader.feed(data)
    file = reader.finish()
    cut, blob = file.cut, file.cut.blob
    header, views = decode_state(
        file.state,
        expect=Expectation(
            cut.model, cut.key.tenant, cut.key.name, cut.generation, blob.offset, blob.digest
        ),
    )
    arrays = {
        name: Array(array.dtype, array.shape, bytearray(array.data))
        for name, array in views.items()
    }
    cut = change(cut, arrays)
    state = encode_state(replace(header, offset=cut.blob.offset), arrays)
    blob = replace(cut.blob, nbytes=len(state), digest=body_digest(state))
    return write_file(replace(cut, blob=blob), state, None)


def with_nan(cut: Cut, arrays: dict[str, Array]) -> Cut:
    array = next(a for name, a in arrays.items() if name.endswith("window_value"))
    array.data[-2:] = b"\xc0\x7f"
    return cut


def with_position(cut: Cut, arrays: dict[str, Array]) -> Cut:
    array = next(a for name, a in arrays.items() if name.endswith("retained_position"))
    array.data[: len(array.data)] = b"\x7f" * len(array.data)
    return cut


def without_an_array(cut: Cut, arrays: dict[str, Array]) -> Cut:
    del arrays[next(iter(arrays))]
    return cut


def at_another_offset(cut: Cut, arrays: dict[str, Array]) -> Cut:
    blob = replace(cut.blob, offset=cut.blob.offset - 1)
    return replace(cut, blob=blob, tokens=bytes(4) + cut.tokens)


def with_a_token_of_no_vocabulary(cut: Cut, arrays: dict[str, Array]) -> Cut:
    return replace(cut, next=cut.next + 1, tokens=cut.tokens + b"\xff" * 4)


@pytest.fixture(scope="module")
def keyless(world: World) -> DaemonProcess:
    return world.start("keyless", export_key=None)


@pytest.mark.parametrize(
    "change",
    [
        with_nan,
        with_position,
        without_an_array,
        at_another_offset,
        with_a_token_of_no_vocabulary,
        lambda cut, arrays: replace(cut, text=b"\xc1"),
        lambda cut, arrays: replace(cut, fields={"chat:r": b"\x90"}),
        lambda cut, arrays: replace(cut, labels={"l": "x" * 257}),
    ],
)
def test_a_forged_file_passes_no_check_of_load(world, client, keyless, filled, change):
    data, keys = settled(client, filled), world.keys(filled, "forged")
    with keyless.client() as on_keyless:
        with pytest.raises((ImportRefused, BadArgument)):
            on_keyless.import_session("forged", forged(data, change))
        assert world.keys(filled, "forged") == keys
        untouched = forged(data, lambda cut, arrays: cut)
        on_keyless.import_session(f"{filled}-in", untouched)
        assert memory(on_keyless, f"{filled}-in") == memory(client, filled)


def test_a_file_of_another_model_is_refused(world, client, filled, name, tmp_path):
    data = b"".join(client.export_session(filled))
    other = tmp_path / "other"
    write_tiny_model(other, seed=1)
    daemon = world.start("other-model", model=other)
    with daemon.client() as on_other, pytest.raises(ModelMismatch):
        on_other.import_session(f"{name}-m", data)
    client.create_session(f"{name}-short")  # there is no state, whose header would tell
    short = b"".join(client.export_session(f"{name}-short"))
    with daemon.client() as on_other, pytest.raises(ModelMismatch):
        on_other.import_session(f"{name}-m", short)
    daemon.kill()
    assert world.keys_of(f"{name}-m") == set()


def test_one_slot_is_enough(world, name):
    daemon = world.start("narrow", slots=1)
    with daemon.client() as client:
        client.create_session(name)
        client.append(name, prose(1, 100))
        before = memory(client, name)
        client.snapshot_session(name, "s")
        client.fork_session(name, f"{name}-copy")
        assert memory(client, f"{name}-copy") == before
        client.append(name, prose(2, 100))
        client.restore_session(name, "s")
        client.import_session(f"{name}-in", b"".join(client.export_session(name)))
        assert memory(client, name) == memory(client, f"{name}-in") == before
    daemon.kill()


def test_a_restore_waits_for_a_running_chat_and_callers_wait_for_it(world, client, name):
    """Calls that meet a restore are answered by one generation or the other, never by neither."""
    client.create_session(name)
    client.append(name, prose(1, 100))
    before = memory(client, name)
    client.snapshot_session(name, "s")
    long = Retry(give_up_after=60)
    with ThreadPoolExecutor(4) as pool, world.daemon.client(retry=long) as patient:

        def chat(number: int) -> str:
            return patient.chat(name, "Say more.", request_id=f"c{number}", sampling=GREEDY).text()

        def ask(_: int) -> str:
            return patient.query(name, "What now?", sampling=GREEDY).text()

        def restore(_: int) -> str:
            return patient.restore_session(name, "s").generation

        jobs = [pool.submit(work, n) for n in range(4) for work in (chat, ask, restore, ask)]
        generations = {job.result() for job in jobs[2::4]}
    assert len(generations) == 4
    client.restore_session(name, "s")
    assert memory(client, name) == before


def test_a_snapshot_waits_for_the_end_of_a_running_chat(client, name):
    client.create_session(name)
    with ThreadPoolExecutor(1) as pool:
        chat = client.chat(name, "Speak long.", sampling=Sampling(max_tokens=400, temperature=1.0))
        next(iter(chat))
        taken = pool.submit(client.snapshot_session, name, "s")
        chat.text()
        assert taken.result().offset == client.get_session(name).offset


def test_copies_are_taken_while_the_session_is_written_to(client, name):
    """Every snapshot and fork is a prefix of the stream, cut between two messages."""
    import threading

    client.create_session(name)
    ends, stop = {0}, threading.Event()
    started = threading.Event()

    def write() -> None:
        writer = client.writer(name)
        turn = 0
        while not stop.is_set():
            ends.add(writer.append(prose(turn, 12)).offset.tokens)
            turn += 1
            if turn == 5:
                started.set()

    thread = threading.Thread(target=write)
    thread.start()
    assert started.wait(60)
    taken = [client.snapshot_session(name, f"s{n}").offset.tokens for n in range(5)]
    taken += [client.fork_session(name, f"{name}-{n}").acked_tokens for n in range(5)]
    stop.set()
    thread.join()
    assert set(taken) <= ends
    assert taken[:5] == sorted(taken[:5])
    client.restore_session(name, "s2")
    assert memory(client, name)[0] == taken[2]
