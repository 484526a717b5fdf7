"""A full server refuses appends, and still lets go of what frees it."""

import pytest

from memoryd.errors import StorageFull
from memoryd.storage.blobs import BlobStore
from memoryd.storage.codec import body_digest
from memoryd.storage.heartbeat import Heartbeat
from memoryd.storage.keys import SessionKey
from memoryd.storage.records import BlobRef
from memoryd.storage.store import Store

MEGABYTE = 1_000_000


@pytest.fixture
async def small(start):
    """A server of 24 MB, a store and a blob store on it."""
    server = start("--maxmemory", str(24 * MEGABYTE), "--maxmemory-policy", "noeviction")
    store, blobs = Store(server.url, durability="everysec"), BlobStore(server.url)
    await store.open()
    yield server, store, blobs
    await store.close()
    await blobs.close()


async def own(store: Store, name: str):
    key = SessionKey("t", name)
    await store.create(key, model="m")
    record = await store.acquire(key, expected_owner="", expected_epoch=0, me="me")
    return record.lease


def fill(server) -> None:
    server.raw.config_set("maxmemory", server.raw.info("memory")["used_memory"] - MEGABYTE)


async def test_beyond_maxmemory_only_what_frees_memory_passes(small, append, until, monkeypatch):
    server, store, blobs = small
    lease, other = await own(store, "one"), await own(store, "other")
    await append(store, lease, 1, 0, 50)
    parts = await blobs.put(lease.key, lease.generation, "a", b"x" * 100)
    fill(server)
    # Both guards, ours by the figures and the server's own, say the same.
    for believed in (float("inf"), float("-inf")):
        monkeypatch.setattr(store, "_memory_read_at", believed)
        with pytest.raises(StorageFull):
            await append(store, lease, 2, 50, 1)
    with pytest.raises(StorageFull):
        await store.create(SessionKey("t", "third"), model="m")
    with pytest.raises(StorageFull):
        await blobs.put(lease.key, lease.generation, "b", b"x" * 100)

    assert await store.check(lease) == 50
    await store.commit(lease, BlobRef("a", 40, 100, parts, ""))
    await store.touch(lease)
    await store.release(lease)
    taken = await store.acquire(lease.key, expected_owner="", expected_epoch=1, me="me")
    heartbeat = Heartbeat(server.url, "owner", "address")
    heartbeat.start()
    assert await store.heartbeat_alive("owner") == "address"
    heartbeat.stop()
    await store.delete(other.key, lease=other)
    assert await store.read(other.key) is None

    server.raw.config_set("maxmemory", 24 * MEGABYTE)

    async def accepted() -> bool:
        try:
            return await append(store, taken.lease, 1, 50, 1) == 51
        except StorageFull:
            return False

    await until(accepted)


async def test_the_reserve_lets_checkpoints_free_a_full_journal(small, append):
    _, store, blobs = small
    store.reserve_bytes = 8 * MEGABYTE
    lease = await own(store, "one")
    body = b"x" * (3 * MEGABYTE)
    end, op, full = 0, 1, False
    while not full:
        # The figures are believed for a second, which is longer than this loop takes.
        store._memory_read_at = float("-inf")
        try:
            end = await append(store, lease, op, end, 5_000)
            op += 1
        except StorageFull:
            full = True
    assert end > 100_000
    parts = await blobs.put(lease.key, lease.generation, "a", body)
    await store.commit(lease, BlobRef("a", end, len(body), parts, ""))
    assert await append(store, lease, op, end, 5_000) == end + 5_000


async def test_a_longer_blob_is_refused_beyond_maxmemory_and_its_base_stays(small, append):
    server, store, blobs = small
    lease = await own(store, "one")
    await append(store, lease, 1, 0, 50)
    body = b"x" * MEGABYTE
    base = await blobs.put_longer(lease.key, lease.generation, "a", body, 0, None)
    fill(server)
    with pytest.raises(StorageFull):
        await blobs.put_longer(lease.key, lease.generation, "b", body + b"more", 0, base)
    assert not server.raw.exists(lease.key.blob(lease.generation, "b"))
    await store.commit(lease, BlobRef("a", 8, len(body), base.parts, body_digest(body)))
    ref = (await store.read(lease.key)).blob
    assert await blobs.get(lease.key, lease.generation, ref) == body
