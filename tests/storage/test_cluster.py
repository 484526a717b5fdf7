"""The protocol on a cluster of three primaries and three replicas, with failovers in its way."""

import asyncio
import random
import shutil
import tempfile
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import redis

from harness.processes import wait_until
from harness.redis_cluster import ClusterNode, RedisCluster, free_ports
from harness.redis_servers import RedisProcess, server_binaries
from memoryd.cli import checks
from memoryd.storage.blobs import PART_BYTES, BlobStore
from memoryd.storage.codec import body_digest
from memoryd.storage.errors import UnsuitableServer
from memoryd.storage.heartbeat import Heartbeat
from memoryd.storage.keys import SessionKey, heartbeat_key
from memoryd.storage.records import BlobRef, Lease
from memoryd.storage.store import Store


@pytest.fixture(scope="module")
def _cluster() -> Iterator[RedisCluster]:
    folder = Path(tempfile.mkdtemp(prefix="mdcl"))
    running = RedisCluster(folder, server_binaries()["valkey"])
    yield running
    running.kill()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def cluster(_cluster: RedisCluster) -> RedisCluster:
    """All six nodes, in step."""
    wait_until(_cluster.healthy, "the cluster is whole")
    return _cluster


@pytest.fixture
async def store(cluster: RedisCluster) -> AsyncIterator[Store]:
    store = Store(cluster.url, durability="replicated", deadline=60.0)
    await store.open()
    yield store
    await store.close()


@pytest.fixture
async def blobs(cluster: RedisCluster) -> AsyncIterator[BlobStore]:
    blobs = BlobStore(cluster.url)
    yield blobs
    await blobs.close()


async def own(store: Store, key: SessionKey) -> Lease:
    record = await store.create(key, model="m")
    taken = await store.acquire(key, expected_owner="", expected_epoch=record.epoch, me="me")
    assert taken is not None
    return taken.lease


def key_at(cluster: RedisCluster, node: ClusterNode, tenant: str = "") -> SessionKey:
    """A new session's key in a slot of this primary."""
    while True:
        key = SessionKey(tenant or uuid.uuid4().hex[:8], uuid.uuid4().hex[:8])
        if cluster.holder(key.meta) is node:
            return key


async def fail_over(cluster: RedisCluster, primary: ClusterNode) -> ClusterNode:
    """Makes the primary's replica lead, with nothing lost; returns it."""
    replica = replica_of(cluster, primary)
    replica.raw.execute_command("CLUSTER", "FAILOVER")
    await asyncio.to_thread(
        wait_until,
        lambda: (replica.role(), primary.role()) == ("master", "slave"),
        "the replica leads",
    )
    return replica


def replica_of(cluster: RedisCluster, primary: ClusterNode) -> ClusterNode:
    port = int(primary.raw.execute_command("ROLE")[2][0][1])
    return next(node for node in cluster.nodes if node.port == port)


async def test_a_session_lives_on_whichever_node_its_slot_is(cluster, store, blobs, append):
    tenant = uuid.uuid4().hex[:8]
    keys = [key_at(cluster, node, tenant) for node in cluster.primaries()]
    for key in keys:
        lease = await own(store, key)
        assert await append(store, lease, 1, 0, 5) == 5
        body = random.Random(7).randbytes(PART_BYTES + 1)
        parts = await blobs.put(key, lease.generation, "a", body)
        ref = BlobRef("a", 3, len(body), parts, body_digest(body))
        await store.commit(lease, ref)
        record = await store.read(key)
        assert (record.next, record.blob) == (5, ref)
        assert await blobs.get(key, lease.generation, ref) == body
        assert [end for end, _ in await store.read_journal(lease, 3)] == [5]
    listed, _ = await store.list_sessions(tenant)
    assert {record.key for record in listed} == set(keys)
    assert (await store.memory()).used > 0
    for key in keys:
        await store.delete(key)
    assert await store.list_sessions(tenant) == ([], "")


async def test_a_longer_blob_is_made_of_the_one_before_on_its_node(cluster, store, blobs, append):
    for node in cluster.primaries():
        key = key_at(cluster, node)
        lease = await own(store, key)
        await append(store, lease, 1, 0, 8)
        body = random.Random(7).randbytes(2 * PART_BYTES)
        base = await blobs.put_longer(key, lease.generation, "a", body, 0, None)
        longer = body + b"more"
        staged = await blobs.put_longer(key, lease.generation, "b", longer, 0, base)
        ref = BlobRef("b", 8, len(longer), staged.parts, body_digest(longer))
        await store.commit(lease, ref)
        assert await blobs.get(key, lease.generation, ref) == longer
        assert node.raw.info("commandstats")["cmdstat_copy"]["calls"] >= 1


async def test_who_holds_a_key_is_learnt_anew_after_a_failover(cluster, store, blobs, append):
    primary = cluster.primaries()[0]
    key = key_at(cluster, primary)
    lease = await own(store, key)
    await append(store, lease, 1, 0, 5)
    parts = await blobs.put(key, lease.generation, "a", b"x" * 10)
    owner = next(
        name
        for name in (uuid.uuid4().hex for _ in range(1000))
        if cluster.holder(heartbeat_key(name)) is primary
    )
    heartbeat = Heartbeat(cluster.url, owner, "address", ttl=3.0)
    heartbeat.start()
    # The new primary has neither our scripts nor our connections.
    replica = await fail_over(cluster, primary)
    assert await append(store, lease, 2, 5, 5) == 10
    await store.commit(lease, BlobRef("a", 3, 10, parts, ""))
    assert await blobs.get(key, lease.generation, BlobRef("a", 3, 10, parts, "")) == b"x" * 10
    await wait_for(lambda: asyncio.sleep(0, cluster.holder(key.meta) is replica))

    async def beats() -> bool:
        heartbeat.beat()
        return replica.raw.pttl(heartbeat_key(owner)) > 2500

    replica.raw.pexpire(heartbeat_key(owner), 2400)
    await wait_for(beats)
    heartbeat.stop()
    assert await store.heartbeat_alive(owner) is None


async def wait_for(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(60):
        met = False
        while not met:
            await asyncio.sleep(0.01)
            met = await condition()


async def stored_end(node: ClusterNode, lease: Lease) -> int:
    """The journal's end by the word of one node, once the cluster lets it answer."""
    found: list[bytes] = []

    async def answers() -> bool:
        with suppress(redis.exceptions.ClusterDownError, redis.exceptions.MovedError):
            found.append(node.raw.hget(lease.key.meta, "next"))
        return bool(found)

    await wait_for(answers)
    return int(found[0])


async def test_no_acknowledged_append_is_lost_with_its_primary(cluster, store, append):
    leases = [await own(store, key_at(cluster, node)) for node in cluster.primaries()]
    acked = [0] * len(leases)
    goal = 400

    async def write(number: int) -> None:
        for op in range(1, goal + 1):
            acked[number] = await append(store, leases[number], op, acked[number], 1)

    writing = [asyncio.create_task(write(number)) for number in range(len(leases))]
    await wait_for(lambda: asyncio.sleep(0, min(acked) > goal // 4))
    victim = cluster.holder(leases[0].key.meta)
    victim.kill()
    await wait_for(lambda: asyncio.sleep(0, cluster.holder(leases[0].key.meta) is not victim))
    heir = cluster.holder(leases[0].key.meta)
    assert await stored_end(heir, leases[0]) >= acked[0] > goal // 4
    await asyncio.to_thread(cluster.restart, victim)
    await asyncio.gather(*writing)
    for lease in leases:
        entries = await store.read_journal(lease, 0)
        assert [end for end, _ in entries] == list(range(1, goal + 1))


async def test_an_ack_says_that_the_replica_has_it(cluster, store, append):
    primary = cluster.primaries()[0]
    lease = await own(store, key_at(cluster, primary))
    acked = 0
    goal = 100

    async def write() -> None:
        nonlocal acked
        for op in range(1, goal + 1):
            acked = await append(store, lease, op, acked, 1)

    def applied() -> int:
        return int(primary.raw.hget(lease.key.meta, "next") or 0)

    replica = replica_of(cluster, primary)
    writing = asyncio.create_task(write())
    await wait_for(lambda: asyncio.sleep(0, acked > goal // 4))
    replica.kill()
    before = acked
    # The primary goes on applying what it is sent, and nobody else will ever know.
    await wait_for(lambda: asyncio.sleep(0, applied() > before + 1 or applied() > acked))
    primary.kill()
    # The replica is elected with what it had.
    replica = await asyncio.to_thread(cluster.restart, replica)
    await wait_for(lambda: asyncio.sleep(0, cluster.holder(lease.key.meta) is replica))
    assert await stored_end(replica, lease) >= acked > 0
    await asyncio.to_thread(cluster.restart, primary)
    await writing
    assert [end for end, _ in await store.read_journal(lease, 0)] == list(range(1, goal + 1))


async def test_a_slot_that_is_being_moved_is_served(cluster, store, append):
    source, target, _ = cluster.primaries()
    key = key_at(cluster, source)
    slot = source.raw.execute_command("CLUSTER", "KEYSLOT", key.meta)
    names = [node.raw.execute_command("CLUSTER", "MYID") for node in (source, target)]
    target.raw.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", names[0])
    source.raw.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", names[1])
    try:
        # What the source does not have is asked for at the target.
        lease = await own(store, key)
        assert await append(store, lease, 1, 0, 5) == 5
        assert (await store.read(key)).next == 5
        assert source.raw.execute_command("CLUSTER", "COUNTKEYSINSLOT", slot) == 0
    finally:
        for node in (target, source):
            node.raw.execute_command("CLUSTER", "SETSLOT", slot, "NODE", names[1])
    assert await append(store, lease, 2, 5, 5) == 10
    # By the word of any node, which may hear of it last.
    await wait_for(lambda: asyncio.sleep(0, cluster.holder(key.meta) is target))


async def test_a_script_whose_keys_are_on_two_nodes_waits(cluster, store, append):
    source, target, _ = cluster.primaries()
    lease = await own(store, key_at(cluster, source))
    slot = source.raw.execute_command("CLUSTER", "KEYSLOT", lease.key.meta)
    identity = target.raw.execute_command("CLUSTER", "MYID")
    # Meta is here still, so the script runs here; the journal, for all this node knows, is there.
    source.raw.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", identity)
    appending = asyncio.create_task(append(store, lease, 1, 0, 5))

    def refused() -> int:
        return sum(
            int(stats["failed_calls"])
            for name, stats in source.raw.info("commandstats").items()
            if name in ("cmdstat_eval", "cmdstat_evalsha")
        )

    before = refused()
    await wait_for(lambda: asyncio.sleep(0, refused() > before + 1))
    assert not appending.done()
    source.raw.execute_command("CLUSTER", "SETSLOT", slot, "STABLE")
    assert await appending == 5
    assert [end for end, _ in await store.read_journal(lease, 0)] == [5]


async def test_a_slot_that_moves_under_its_writer_loses_nothing(cluster, store, append):
    source, target, _ = cluster.primaries()
    lease = await own(store, key_at(cluster, source))
    slot = source.raw.execute_command("CLUSTER", "KEYSLOT", lease.key.meta)
    acked = 0

    async def write() -> None:
        nonlocal acked
        op = 0
        while cluster.holder(lease.key.meta) is source or op % 50:
            op += 1
            acked = await append(store, lease, op, acked, 1)

    writing = asyncio.create_task(write())
    await wait_for(lambda: asyncio.sleep(0, acked > 20))
    # Valkey 9's way: the slot changes hands in one step, with all that it holds.
    identity = target.raw.execute_command("CLUSTER", "MYID")
    source.raw.execute_command(
        "CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", identity
    )
    await writing
    assert cluster.holder(lease.key.meta) is target
    assert [end for end, _ in await store.read_journal(lease, 0)] == list(range(1, acked + 1))


async def test_every_node_must_be_fit_for_sessions(cluster):
    for node in (cluster.primaries()[1], replica_of(cluster, cluster.primaries()[1])):
        node.raw.config_set("maxmemory-policy", "allkeys-lru")
        node.raw.config_set("maxmemory", "100mb")
        store = Store(cluster.url, durability="replicated")
        try:
            with pytest.raises(UnsuitableServer, match=f":{node.port} evicts"):
                await store.open()
        finally:
            node.raw.config_set("maxmemory", "0")
            node.raw.config_set("maxmemory-policy", "noeviction")
            await store.close()


async def test_a_daemon_can_start_while_a_replica_is_down(cluster):
    replica = replica_of(cluster, cluster.primaries()[0])
    replica.kill()
    store = Store(cluster.url, durability="everysec")
    await store.open()
    await store.close()
    cluster.restart(replica)


async def test_the_urls_scheme_must_fit_the_server(cluster, tmp_path):
    (port,) = free_ports(1)
    alone = RedisProcess(tmp_path, server_binaries()["valkey"], port=str(port))
    try:
        for url, says in (
            (f"redis://127.0.0.1:{cluster.primaries()[0].port}", "write redis-cluster://"),
            (f"redis-cluster://127.0.0.1:{port}", "write redis://"),
        ):
            store = Store(url, durability="everysec")
            with pytest.raises(UnsuitableServer, match=says):
                await store.open()
            await store.close()
    finally:
        alone.kill()
    assert checks.redis(cluster.url, None).status == "ok"
