"""The session protocol: create, acquire, append, checkpoint, delete, and who is refused."""

import struct
import uuid

import pytest

from memoryd.errors import (
    GenerationChanged,
    OwnershipLost,
    SessionExists,
    SessionNotFound,
    StateCorrupt,
)
from memoryd.storage.errors import CheckpointIncomplete, JournalGap, StaleCheckpoint
from memoryd.storage.keys import SessionKey, TenantKey
from memoryd.storage.records import BlobRef, Lease


def ids(entries: list[tuple[int, bytes]]) -> list[int]:
    data = b"".join(tokens for _, tokens in entries)
    return list(struct.unpack(f"<{len(data) // 4}I", data))


async def test_a_created_session_reads_back_as_it_was_made(store, key):
    labels = {"team": "é"}
    made = await store.create(key, model="m1", ttl_ms=60_000, archive=True, labels=labels)
    assert made == await store.read(key)
    assert (made.owner, made.epoch, made.next, made.blob) == ("", 0, 0, None)
    assert (made.model, made.ttl_ms, made.archive, made.labels) == ("m1", 60_000, True, labels)
    assert made.created_ms > 0
    with pytest.raises(SessionExists):
        await store.create(key, model="m1")
    assert (await store.read(key)).generation == made.generation


async def test_an_absent_session_is_not_found(store, key):
    lease = Lease(key, "g", "me", 1)
    assert await store.read(key) is None
    for call in (
        store.acquire(key, expected_owner="", expected_epoch=0, me="me"),
        store.append(lease, op_id=1, expected_next=0, tokens=[1], text=b"", writers=b"", fields={}),
        store.check(lease),
        store.read_journal(lease, 0),
        store.commit(lease, BlobRef("a", 1, 1, 1, "")),
        store.touch(lease),
        store.delete(key),
        store.delete(key, generation="g"),
    ):
        with pytest.raises(SessionNotFound):
            await call


async def test_what_was_appended_reads_back(store, key, owned):
    lease = await owned()
    tokens = [0, 1, 255, 65_536, 2**32 - 1]
    fields = {"chat:1": b"\x00reply", "chat:2": b"other"}
    end = await store.append(
        lease,
        op_id=1,
        expected_next=0,
        tokens=tokens,
        text=b"\xfftail",
        writers=b"w",
        fields=fields,
    )
    assert end == 5 == await store.check(lease)
    record = await store.read(key)
    assert (record.next, record.text, record.writers) == (5, b"\xfftail", b"w")
    assert record.fields == fields
    assert ids(await store.read_journal(lease, 0)) == tokens
    end = await store.append(
        lease, op_id=2, expected_next=5, tokens=[], text=b"t", writers=b"v", fields={"chat:1": None}
    )
    assert end == 5
    record = await store.read(key)
    assert (record.next, record.text, record.fields) == (5, b"t", {"chat:2": b"other"})


async def test_fields_cannot_overwrite_the_record(store, owned):
    lease = await owned()
    with pytest.raises(ValueError, match="chat:"):
        await store.append(
            lease,
            op_id=1,
            expected_next=0,
            tokens=[],
            text=b"",
            writers=b"",
            fields={"owner": b"x"},
        )


async def test_an_operation_sent_again_is_applied_once(store, key, owned, append):
    lease = await owned()
    assert await append(store, lease, 1, 0, 3) == 3
    assert await append(store, lease, 1, 0, 3) == 3
    assert await append(store, lease, 2, 3, 2) == 5
    assert await append(store, lease, 2, 3, 2) == 5
    assert ids(await store.read_journal(lease, 0)) == [0, 1, 2, 3, 4]


async def test_a_ghost_of_an_earlier_operation_changes_nothing(store, key, owned, append):
    lease = await owned()
    await append(store, lease, 1, 0, 3)
    await append(store, lease, 2, 3, 0)
    before = await store.read(key)
    with pytest.raises(ValueError, match="op_id"):
        await append(store, lease, 1, 3, 0)
    assert await store.read(key) == before


async def test_an_append_elsewhere_than_at_the_end_is_a_gap(store, owned, append):
    lease = await owned()
    await append(store, lease, 1, 0, 3)
    with pytest.raises(JournalGap) as gap:
        await append(store, lease, 2, 4, 1)
    assert (gap.value.expected, gap.value.actual) == (4, 3)
    assert await append(store, lease, 2, 3, 1) == 4


async def test_only_one_of_two_acquires_wins(store, key):
    await store.create(key, model="m")
    won = await store.acquire(key, expected_owner="", expected_epoch=0, me="a")
    assert (won.owner, won.epoch) == ("a", 1)
    assert await store.acquire(key, expected_owner="", expected_epoch=0, me="b") is None
    assert await store.acquire(key, expected_owner="a", expected_epoch=0, me="b") is None
    # Its own answer lost, the winner asks again and is told the same.
    again = await store.acquire(key, expected_owner="", expected_epoch=0, me="a")
    assert again.lease == won.lease


async def test_the_former_owner_is_fenced_in_every_operation(store, key, owned, append, checkpoint):
    old = await owned("daemon-a")
    await append(store, old, 1, 0, 8)
    ref = await checkpoint(old, 8)
    new = await owned("daemon-b")
    before = await store.read(key)
    for call in (
        append(store, old, 2, 8, 1),
        append(store, old, 1, 0, 8),
        store.check(old),
        store.commit(old, ref),
        store.touch(old),
        store.read_journal(old, 0),
        store.delete(key, lease=old),
    ):
        with pytest.raises(OwnershipLost):
            await call
    await store.release(old)
    assert await store.read(key) == before
    assert await append(store, new, 1, 8, 1) == 9


async def test_the_same_daemon_at_an_older_epoch_is_fenced(store, owned, append):
    old = await owned("daemon-a")
    new = await owned("daemon-a")
    assert new.epoch == old.epoch + 1
    with pytest.raises(OwnershipLost):
        await append(store, old, 1, 0, 1)


async def test_a_session_made_anew_refuses_its_ghost(store, key, owned, append, checkpoint):
    ghost = await owned("daemon-a")
    await append(store, ghost, 1, 0, 8)
    ref = await checkpoint(ghost, 8)
    await store.delete(key, lease=ghost)
    fresh = await owned("daemon-a")
    assert (fresh.owner, fresh.epoch) == (ghost.owner, ghost.epoch)
    for call in (
        append(store, ghost, 2, 0, 1),
        store.check(ghost),
        store.commit(ghost, ref),
        store.touch(ghost),
    ):
        with pytest.raises(OwnershipLost):
            await call
    with pytest.raises(GenerationChanged):
        await store.delete(key, generation=ghost.generation)
    await store.release(ghost)
    record = await store.read(key)
    assert (record.generation, record.owner, record.next) == (fresh.generation, "daemon-a", 0)


async def test_a_released_session_can_be_acquired_by_anybody(store, key, owned):
    lease = await owned("daemon-a")
    await store.release(lease)
    await store.release(lease)
    record = await store.read(key)
    assert (record.owner, record.epoch) == ("", 1)
    with pytest.raises(OwnershipLost):
        await store.check(lease)
    assert (await owned("daemon-b")).epoch == 2


async def test_a_checkpoint_moves_the_pointer_and_trims_what_it_covers(
    server, store, blobs, key, owned, append, checkpoint
):
    lease = await owned()
    for op, at in enumerate(range(0, 20, 5), start=1):
        await append(store, lease, op, at, 5)
    body = bytes(range(256)) * 5000
    first = await checkpoint(lease, 8, body)
    assert first.parts == 3
    await store.commit(lease, first)
    await store.commit(lease, first)
    assert (await store.read(key)).blob == first
    assert await blobs.get(key, lease.generation, first) == body
    assert server.raw.ttl(key.blob(lease.generation, first.attempt)) == -1
    entries = await store.read_journal(lease, 8)
    assert [end for end, _ in entries] == [10, 15, 20]
    assert ids(entries) == list(range(5, 20))

    second = await checkpoint(lease, 20)
    await store.commit(lease, second)
    assert await store.read_journal(lease, 20) == []
    assert server.raw.exists(key.blob(lease.generation, first.attempt)) == 0
    # The stream remembers its last id even when it is empty.
    assert await append(store, lease, 5, 20, 5) == 25
    assert ids(await store.read_journal(lease, 20)) == list(range(20, 25))


async def test_a_pinned_blob_outlives_the_next_checkpoint(
    server, store, key, owned, append, checkpoint
):
    lease = await owned()
    await append(store, lease, 1, 0, 20)
    first = await checkpoint(lease, 8)
    await store.commit(lease, first)
    server.raw.hset(key.meta, f"pin:{first.attempt}", "snapshot")
    await store.commit(lease, await checkpoint(lease, 16))
    assert server.raw.exists(key.blob(lease.generation, first.attempt)) == 1


async def test_the_pointer_never_moves_back(store, key, owned, append, checkpoint):
    lease = await owned()
    await append(store, lease, 1, 0, 20)
    newest = await checkpoint(lease, 16)
    await store.commit(lease, newest)
    for offset in (8, 16):
        with pytest.raises(StaleCheckpoint) as stale:
            await store.commit(lease, await checkpoint(lease, offset))
        assert (stale.value.offset, stale.value.committed) == (offset, 16)
    assert (await store.read(key)).blob == newest


async def test_a_checkpoint_beyond_the_journal_is_refused(store, key, owned, append, checkpoint):
    lease = await owned()
    await append(store, lease, 1, 0, 7)
    with pytest.raises(JournalGap) as gap:
        await store.commit(lease, await checkpoint(lease, 8))
    assert gap.value.actual == 7
    assert (await store.read(key)).blob is None


async def test_an_incomplete_blob_is_not_committed(server, store, key, owned, append, checkpoint):
    lease = await owned()
    await append(store, lease, 1, 0, 8)
    ref = await checkpoint(lease, 8, b"x" * 1_200_000)
    server.raw.hdel(key.blob(lease.generation, ref.attempt), 1)
    with pytest.raises(CheckpointIncomplete):
        await store.commit(lease, ref)
    record = await store.read(key)
    assert record.blob is None
    assert len(await store.read_journal(lease, 0)) == 1


async def test_a_refused_blob_is_freed_and_a_committed_one_is_not(
    server, store, key, owned, append, checkpoint
):
    lease = await owned()
    await append(store, lease, 1, 0, 20)
    committed = await checkpoint(lease, 8)
    await store.commit(lease, committed)
    server.raw.hset(key.meta, f"pin:{committed.attempt}", "1")
    newest = await checkpoint(lease, 16)
    await store.commit(lease, newest)
    late, early = await checkpoint(lease, 24), await checkpoint(lease, 12)
    with pytest.raises(JournalGap):
        await store.commit(lease, late)
    with pytest.raises(StaleCheckpoint):
        await store.commit(lease, early)
    lost = await checkpoint(lease, 20)
    server.raw.hset(key.meta, "owner", "daemon-b")
    # A commit sent again may meet the next owner after its first try was carried out.
    for each in (lost, newest, committed):
        with pytest.raises(OwnershipLost):
            await store.commit(lease, each)
    there = [
        each
        for each in (committed, newest, late, early, lost)
        if server.raw.exists(key.blob(lease.generation, each.attempt))
    ]
    assert there == [committed, newest]
    server.raw.delete(key.meta)
    with pytest.raises(SessionNotFound):
        await store.commit(lease, await checkpoint(lease, 20))
    orphans = server.raw.keys(key.blob(lease.generation, "*"))
    assert len(orphans) == 2


async def test_a_journal_with_a_hole_is_refused(server, store, key, owned, append):
    lease = await owned()
    for op, at in enumerate(range(0, 15, 5), start=1):
        await append(store, lease, op, at, 5)
    server.raw.xdel(key.journal(lease.generation), "10-0")
    with pytest.raises(StateCorrupt):
        await store.read_journal(lease, 0)
    assert ids(await store.read_journal(lease, 10)) == list(range(10, 15))
    server.raw.xdel(key.journal(lease.generation), "15-0")
    with pytest.raises(StateCorrupt):
        await store.read_journal(lease, 10)


async def test_a_journal_trimmed_by_the_next_owner_is_a_lost_lease_and_no_corruption(
    store, owned, append, checkpoint, monkeypatch
):
    old = await owned("daemon-a")
    await append(store, old, 1, 0, 5)
    await append(store, old, 2, 5, 5)
    send = store._client.command

    async def taken_over_while_reading(*command):
        if command[0] == "XRANGE":
            new = await owned("daemon-b")
            await store.commit(new, await checkpoint(new, 5))
        return await send(*command)

    monkeypatch.setattr(store._client, "command", taken_over_while_reading)
    with pytest.raises(OwnershipLost):
        await store.read_journal(old, 0)


async def test_a_long_journal_is_read_in_pages_without_loss(store, owned, append):
    lease = await owned()
    for op in range(1, 601):
        await append(store, lease, op, op - 1, 1)
    assert ids(await store.read_journal(lease, 0)) == list(range(600))
    assert ids(await store.read_journal(lease, 599)) == [599]


async def test_delete_leaves_nothing_behind(server, store, key, owned, append, checkpoint):
    lease = await owned()
    await append(store, lease, 1, 0, 8)
    await store.commit(lease, await checkpoint(lease, 8))
    await append(store, lease, 2, 8, 3)
    await store.delete(key, lease=lease)
    assert await store.read(key) is None
    assert server.raw.keys(f"md1:{{{key.tenant}*") == []
    with pytest.raises(SessionNotFound):
        await store.delete(key)


async def test_a_session_that_is_not_owned_can_be_deleted(store, key):
    record = await store.create(key, model="m")
    with pytest.raises(GenerationChanged):
        await store.delete(key, generation="another")
    await store.delete(key, generation=record.generation)
    assert await store.read(key) is None


async def test_sessions_are_listed_by_name_in_pages_and_within_their_tenant(store):
    tenant = f"tenant-{uuid.uuid4().hex[:8]}"
    names = sorted(["a", "b/1", "b/2", "b/3", "é", "会話", "b"], key=str.encode)
    for name in names:
        await store.create(SessionKey(tenant, name), model="m", labels={"n": name})
    await store.create(SessionKey(tenant + "x", "b/4"), model="m")

    async def walk(prefix: str, page_size: int) -> list[str]:
        found, token = [], ""
        while True:
            page, token = await store.list_sessions(
                tenant, prefix=prefix, page_size=page_size, page_token=token
            )
            assert len(page) <= page_size
            found += [record.key.name for record in page]
            assert all(record.labels == {"n": record.key.name} for record in page)
            if not token:
                return found

    for page_size in (1, 2, 3, 100):
        assert await walk("", page_size) == names
        assert await walk("b", page_size) == ["b", "b/1", "b/2", "b/3"]
        assert await walk("b/", page_size) == ["b/1", "b/2", "b/3"]
        assert await walk("zz", page_size) == []


async def test_listing_sweeps_names_whose_session_is_gone(server, store, key):
    index = TenantKey(key.tenant).index
    await store.create(key, model="m")
    server.raw.zadd(index, {f"gone {n}": 0 for n in range(5)})
    page, token = await store.list_sessions(key.tenant, page_size=1)
    if token:
        more, token = await store.list_sessions(key.tenant, page_size=1, page_token=token)
        assert more == []
    assert [record.key for record in page] == [key]
    await store.list_sessions(key.tenant)
    assert server.raw.zrange(index, 0, -1) == [key.name.encode()]


async def test_a_session_swept_by_a_race_is_listed_again_once_acquired(server, store, key, owned):
    await store.create(key, model="m")
    server.raw.zrem(TenantKey(key.tenant).index, key.name)
    await owned()
    page, _ = await store.list_sessions(key.tenant)
    assert [record.key for record in page] == [key]
