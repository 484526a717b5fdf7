"""Snapshots pin what they need and nothing else; a copied stream is put in place in one step."""

import asyncio
import uuid
from dataclasses import replace

import pytest

from memoryd.errors import (
    BadArgument,
    OwnershipLost,
    SessionExists,
    SessionNotFound,
    SnapshotExists,
    SnapshotNotFound,
    StateCorrupt,
    TooManySnapshots,
)
from memoryd.storage import scripts
from memoryd.storage.cut import Cut
from memoryd.storage.errors import CheckpointIncomplete, CutMoved
from memoryd.storage.keys import SessionKey
from memoryd.storage.snapshots import MAX_SNAPSHOTS
from memoryd.storage.store import pack_tokens


def keys(server, key) -> set[str]:
    return {name.decode() for name in server.raw.keys(f"md1:{{{key.tenant}/*")}


def cut_of(record, tokens=(), **changes) -> Cut:
    return replace(
        Cut(
            key=record.key,
            generation=record.generation,
            model=record.model,
            next=record.next,
            blob=record.blob,
            tokens=pack_tokens(tokens),
            text=record.text,
            writers=record.writers,
            fields=record.fields,
            labels=record.labels,
            ttl_ms=record.ttl_ms,
            archive=record.archive,
            archived=record.archived,
        ),
        **changes,
    )


@pytest.fixture
async def stood(store, key, owned, append, checkpoint):
    """A session of 12 tokens with a checkpoint at 8; its lease."""
    lease = await owned()
    await append(store, lease, 1, 0, 12)
    await store.commit(lease, await checkpoint(lease, 8))
    return lease


async def now(store, lease) -> Cut:
    record = await store.read(lease.key)
    return cut_of(record, range(record.blob.offset if record.blob else 0, record.next))


async def test_a_snapshot_is_listed_and_read_back_as_it_was_cut(store, stood):
    cut = await now(store, stood)
    first = await store.snapshots.take(stood, "first", cut)
    assert (first.next, first.nbytes) == (12, 100 + len(cut.pack()))
    await store.snapshots.take(stood, "a {second}: one/more", cut)
    listed = await store.snapshots.list_snapshots(stood.key)
    assert {row.name for row in listed} == {"first", "a {second}: one/more"}
    assert listed == sorted(listed, key=lambda row: row.created_ms)
    assert first in listed
    assert await store.snapshots.read(stood.key, "a {second}: one/more") == cut


async def test_a_pinned_blob_outlives_the_checkpoints_that_follow(
    server, store, blobs, stood, append, checkpoint
):
    cut = await now(store, stood)
    await store.snapshots.take(stood, "one", cut)
    await store.snapshots.take(stood, "two", cut)
    await append(store, stood, 2, 12, 8)
    unpinned = await checkpoint(stood, 16)
    await store.commit(stood, unpinned)
    await append(store, stood, 3, 20, 4)
    await store.commit(stood, await checkpoint(stood, 24))
    pinned = stood.key.blob(stood.generation, cut.blob.attempt)
    assert stood.key.blob(stood.generation, unpinned.attempt) not in keys(server, stood.key)
    assert await blobs.get(stood.key, stood.generation, cut.blob) == b"x" * 100
    await store.snapshots.delete(stood.key, "one")
    assert pinned in keys(server, stood.key)
    await store.snapshots.delete(stood.key, "two")
    assert pinned not in keys(server, stood.key)
    assert len(keys(server, stood.key)) == 4 - 1  # meta, journal, newest blob
    assert not [f for f in server.raw.hkeys(stood.key.meta) if f.startswith((b"pin:", b"snap:"))]


async def test_deleting_a_snapshot_leaves_the_checkpoint_that_it_pinned(
    server, store, blobs, stood
):
    cut = await now(store, stood)
    await store.snapshots.take(stood, "s", cut)
    await store.snapshots.delete(stood.key, "s")
    assert await blobs.get(stood.key, stood.generation, cut.blob) == b"x" * 100
    with pytest.raises(SnapshotNotFound):
        await store.snapshots.delete(stood.key, "s")
    assert await store.snapshots.list_snapshots(stood.key) == []


async def test_a_late_deletion_does_not_reach_a_later_snapshot_of_that_name(server, store, stood):
    cut = await now(store, stood)
    await store.snapshots.take(stood, "s", cut)
    identity = server.raw.hget(stood.key.snap("s"), "id")
    await store.snapshots.delete(stood.key, "s")
    await store.snapshots.take(stood, "s", cut)
    late = await store._client.call(
        scripts.DROP_SNAPSHOT, stood.key.meta, "snap:s", identity, mark_again=True
    )
    assert late == [b"NOT_FOUND"]
    assert await store.snapshots.read(stood.key, "s") == cut


async def test_a_restore_to_what_was_just_pinned_keeps_the_pinned_state(store, blobs, stood):
    cut = await now(store, stood)
    await store.snapshots.take(stood, "s", cut)
    await store.snapshots.install(
        replace(cut, next=0, blob=None, tokens=b""), stood.key, "ffff", None, replacing=stood
    )
    assert await blobs.get(stood.key, stood.generation, cut.blob) == b"x" * 100


async def test_a_snapshot_of_a_session_without_checkpoint_pins_nothing(
    server, store, owned, append
):
    lease = await owned()
    await append(store, lease, 1, 0, 5)
    cut = await now(store, lease)
    await store.snapshots.take(lease, "s", cut)
    assert (await store.snapshots.read(lease.key, "s")).tokens == pack_tokens(range(5))
    await store.snapshots.delete(lease.key, "s")
    assert len(keys(server, lease.key)) == 2


async def test_snapshots_are_refused_where_they_do_not_fit(
    store, stood, owned, append, checkpoint, monkeypatch
):
    cut = await now(store, stood)
    await store.snapshots.take(stood, "s", cut)
    with pytest.raises(SnapshotExists):
        await store.snapshots.take(stood, "s", cut)
    with pytest.raises(BadArgument):
        await store.snapshots.take(stood, "", cut)
    with pytest.raises(SnapshotNotFound):
        await store.snapshots.read(stood.key, "other")
    for number in range(1, MAX_SNAPSHOTS):
        await store.snapshots.take(stood, f"s{number}", cut)
    with pytest.raises(TooManySnapshots):
        await store.snapshots.take(stood, "one more", cut)
    await store.snapshots.delete(stood.key, "s")
    await append(store, stood, 2, 12, 1)
    with pytest.raises(CutMoved):
        await store.snapshots.take(stood, "late", cut)
    later = await now(store, stood)
    await store.commit(stood, await checkpoint(stood, 12))
    with pytest.raises(CutMoved):
        await store.snapshots.take(stood, "late", later)
    await owned("daemon-b")
    with pytest.raises(OwnershipLost):
        await store.snapshots.take(stood, "ghost", await now(store, stood))


async def test_snapshots_die_with_their_session(server, store, stood):
    await store.snapshots.take(stood, "s", await now(store, stood))
    await store.delete(stood.key)
    assert keys(server, stood.key) == set()
    with pytest.raises(SessionNotFound):
        await store.snapshots.list_snapshots(stood.key)


async def test_snapshots_expire_with_their_session_and_live_on_with_it(
    server, store, stood, append, checkpoint
):
    await store.snapshots.take(stood, "s", await now(store, stood))
    await append(store, stood, 2, 12, 4)
    await store.commit(stood, await checkpoint(stood, 16))
    record = await store.update(await store.read(stood.key), ttl_ms=1_000_000)
    assert record.ttl_ms == 1_000_000
    deaths = {server.raw.pexpiretime(name) for name in keys(server, stood.key)}
    assert len(keys(server, stood.key)) == 5
    assert len(deaths) == 1
    assert min(deaths) > 0
    assert (await store.update(record, ttl_ms=0)).ttl_ms == 0
    assert {server.raw.pexpiretime(name) for name in keys(server, stood.key)} == {-1}


async def test_update_compares_lease_and_labels(store, stood, owned):
    record = await store.read(stood.key)
    changed = await store.update(record, labels={"a": "1"})
    assert changed.labels == {"a": "1"}
    assert await store.update(record, labels={"b": "2"}) is None
    assert (await store.update(record, labels={"a": "1"})).labels == {"a": "1"}  # a retry
    await owned("daemon-b")
    with pytest.raises(OwnershipLost):
        await store.update(changed, ttl_ms=5000)
    assert (await store.read(stood.key)).ttl_ms == 0


async def staged(blobs, key, generation, ref):
    attempt = uuid.uuid4().hex
    await blobs.put(key, generation, attempt, b"x" * ref.nbytes)
    return replace(ref, attempt=attempt)


async def test_a_cut_becomes_a_new_session(server, store, blobs, stood):
    record = await store.read(stood.key)
    cut = cut_of(record, range(8, 12), fields={"chat:r": b"record"}, labels={"a": "1"})
    other = SessionKey(stood.key.tenant, "a copy")
    blob = await staged(blobs, other, "ffff", cut.blob)
    made = await store.snapshots.install(cut, other, "ffff", blob)
    assert (made.generation, made.owner, made.epoch, made.next) == ("ffff", "", 0, 12)
    assert (made.text, made.writers) == (record.text, record.writers)
    assert (made.fields, made.labels, made.blob) == ({"chat:r": b"record"}, {"a": "1"}, blob)
    assert server.raw.ttl(other.blob("ffff", blob.attempt)) == -1
    lease = (await store.acquire(other, expected_owner="", expected_epoch=0, me="b")).lease
    assert await store.read_journal(lease, 8) == [(12, pack_tokens(range(8, 12)))]
    with pytest.raises(SessionExists):
        await store.snapshots.install(cut, other, "eeee", None)


async def test_a_restore_ends_the_old_generation_and_keeps_the_snapshots(
    server, store, blobs, stood, append, checkpoint
):
    cut = await now(store, stood)
    await store.snapshots.take(stood, "s", cut)
    await append(store, stood, 2, 12, 8)
    await store.commit(stood, await checkpoint(stood, 16))
    blob = await staged(blobs, stood.key, "ffff", cut.blob)
    before = await store.read(stood.key)
    made = await store.snapshots.install(cut, stood.key, "ffff", blob, replacing=stood)
    assert (made.generation, made.owner, made.next, made.blob) == ("ffff", "", 12, blob)
    assert (made.text, made.created_ms) == (cut.text, before.created_ms)
    assert made.epoch == before.epoch + 1
    left = {name.rpartition("}:")[2] for name in keys(server, stood.key)}
    assert left == {
        "meta",
        "journal:ffff",
        f"blob:ffff:{blob.attempt}",
        "snap:s",
        f"blob:{stood.generation}:{cut.blob.attempt}",
    }
    with pytest.raises(OwnershipLost):
        await append(store, stood, 3, 20, 1)
    with pytest.raises(OwnershipLost):
        await store.snapshots.install(cut, stood.key, "eeee", None, replacing=stood)
    assert await store.snapshots.read(stood.key, "s") == cut
    await store.delete(stood.key)
    assert keys(server, stood.key) == set()


async def test_a_restore_frees_the_checkpoint_that_no_snapshot_pins(server, store, stood):
    cut = cut_of(await store.read(stood.key), next=0, blob=None)
    await store.snapshots.install(cut, stood.key, "ffff", None, replacing=stood)
    assert {name.rpartition("}:")[2] for name in keys(server, stood.key)} == {"meta"}


async def test_a_blob_that_is_not_there_whole_is_not_installed(server, store, blobs, stood):
    cut = await now(store, stood)
    other = SessionKey(stood.key.tenant, "a copy")
    with pytest.raises(CheckpointIncomplete):
        await store.snapshots.install(cut, other, "ffff", cut.blob)
    with pytest.raises(CheckpointIncomplete):
        await store.snapshots.install(cut, stood.key, "ffff", cut.blob, replacing=stood)
    assert await store.read(other) is None
    assert await store.check(stood) == 12


async def test_lost_answers_change_nothing_twice(server, lossy, proxy, blobs, stood, store):
    """Every script that answers is run twice by the server, and once by its effect."""
    cut = await now(store, stood)
    fates = iter(())

    def lose_the_first(request: bytes) -> str:
        return next(fates, "answered")

    proxy.fate = lose_the_first
    fates = iter(["answer lost"])
    await lossy.snapshots.take(stood, "s", cut)
    assert server.raw.hget(stood.key.meta, "snapshots") == b"1"
    fates = iter(["answer lost"])
    blob = await staged(blobs, stood.key, "ffff", cut.blob)
    fates = iter(["answer lost"])
    made = await lossy.snapshots.install(cut, stood.key, "ffff", blob, replacing=stood)
    assert made.epoch == stood.epoch + 1
    fates = iter(["answered", "answer lost"])
    await lossy.snapshots.delete(stood.key, "s")
    assert server.raw.hget(stood.key.meta, "snapshots") == b"0"
    fates = iter(["answer lost"])
    assert (await lossy.update(made, labels={"a": "1"})).labels == {"a": "1"}


async def test_a_cut_is_refused_in_every_truncation_and_with_every_bit_flipped(store, stood):
    record = await store.read(stood.key)
    packed = cut_of(record, range(8, 12), fields={"chat:r": b"record"}, labels={"a": "1"}).pack()
    assert Cut.unpack(packed).pack() == packed
    for length in range(len(packed)):
        with pytest.raises(StateCorrupt):
            Cut.unpack(packed[:length])
    for bit in range(8 * len(packed)):
        flipped = bytearray(packed)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(StateCorrupt):
            Cut.unpack(bytes(flipped))
    with pytest.raises(StateCorrupt):
        Cut.unpack(packed + b"\0")


@pytest.mark.parametrize(
    "changes",
    [
        {"next": 13},
        {"tokens": b"abc"},
        {"blob": None},
        {"fields": {"owner": b"me"}},
        {"fields": {"chat:r": "text"}},
        {"labels": {"a": 1}},
        {"ttl_ms": -1},
        {"next": 2**53},
        {"archive": 1},
        {"archived": -1},
        {"archive": False, "archived": 1},
        {"text": "text"},
    ],
)
async def test_a_cut_whose_digest_fits_is_still_checked(store, stood, changes):
    cut = replace(cut_of(await store.read(stood.key), range(8, 12)), **changes)
    with pytest.raises(StateCorrupt):
        Cut.unpack(cut.pack())


async def test_a_snapshot_of_another_session_is_refused(server, store, stood):
    cut = await now(store, stood)
    await store.snapshots.take(stood, "s", cut)
    foreign = replace(cut, key=SessionKey(stood.key.tenant, "another"))
    server.raw.hset(stood.key.snap("s"), "cut", foreign.pack())
    with pytest.raises(StateCorrupt):
        await store.snapshots.read(stood.key, "s")


async def test_snapshots_taken_at_once_are_all_kept(store, stood):
    cut = await now(store, stood)
    await asyncio.gather(*(store.snapshots.take(stood, f"s{n}", cut) for n in range(8)))
    assert len(await store.snapshots.list_snapshots(stood.key)) == 8
