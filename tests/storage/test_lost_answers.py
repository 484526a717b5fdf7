"""Whatever happens to a connection, an operation is applied once and its caller learns it."""

import asyncio
import os
import signal
import struct

import pytest

from harness.redis_cluster import free_ports
from memoryd.errors import StorageUnavailable
from memoryd.storage.keys import SessionKey
from memoryd.storage.store import Store


async def test_every_operation_survives_a_lost_answer(proxy, lossy, store, key, append, checkpoint):
    scripts = 0

    def fate(request: bytes) -> str:
        """Of each script's three tries, the first two are run but not answered."""
        nonlocal scripts
        scripts += b"EVALSHA" in request
        return "answer lost" if b"EVALSHA" in request and scripts % 3 else "answered"

    proxy.fate = fate
    record = await lossy.create(key, model="m")
    assert record == await store.read(key)

    record = await lossy.acquire(key, expected_owner="", expected_epoch=0, me="me")
    lease = record.lease
    assert lease.epoch == 1

    for op in range(1, 4):
        assert await append(lossy, lease, op, 4 * (op - 1), 4) == 4 * op
    entries = await store.read_journal(lease, 0)
    assert [end for end, _ in entries] == [4, 8, 12]
    assert struct.unpack("<12I", b"".join(t for _, t in entries)) == tuple(range(12))

    ref = await checkpoint(lease, 8)
    await lossy.commit(lease, ref)
    assert (await store.read(key)).blob == ref

    await lossy.touch(lease)
    assert await lossy.check(lease) == 12
    await lossy.release(lease)
    assert (await store.read(key)).owner == ""

    await lossy.delete(key, generation=lease.generation)
    assert await store.read(key) is None
    # 10 operations, the index twice, the tenant's bytes: each was answered at its third try.
    assert scripts == 3 * 13


async def test_scripts_come_back_after_the_server_forgot_them(server, store, owned, append):
    lease = await owned()
    server.raw.script_flush()
    assert await append(store, lease, 1, 0, 3) == 3
    assert await append(store, lease, 2, 3, 3) == 6


async def test_an_absent_server_is_unavailable_within_the_deadline(tmp_path):
    store = Store(f"unix://{tmp_path}/nothing", durability="everysec", deadline=0.2)
    with pytest.raises(StorageUnavailable, match="check that it runs"):
        await store.open()
    await store.close()


async def test_a_server_that_hangs_is_unavailable_and_loses_nothing(start, append):
    server = start()
    store = Store(server.url, durability="everysec")
    hasty = Store(server.url, durability="everysec", socket_timeout=0.1, deadline=0.5)
    await store.open()
    key = SessionKey("t", "s")
    await store.create(key, model="m")
    record = await store.acquire(key, expected_owner="", expected_epoch=0, me="me")
    os.kill(server.process.pid, signal.SIGSTOP)
    try:
        with pytest.raises(StorageUnavailable):
            await append(hasty, record.lease, 1, 0, 3)
    finally:
        os.kill(server.process.pid, signal.SIGCONT)
    assert await append(store, record.lease, 1, 0, 3) == 3
    assert len(await store.read_journal(record.lease, 0)) == 1
    for one in (store, hasty):
        await one.close()


async def test_a_cancelled_call_does_not_poison_the_connections(server, store, key, owned, append):
    lease = await owned()
    for _ in range(50):
        call = asyncio.create_task(store.check(lease))
        await asyncio.sleep(0)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
    record, end = await asyncio.gather(store.read(key), store.check(lease))
    assert (record.key, end) == (key, 0)
    assert await append(store, lease, 1, 0, 3) == 3


async def test_replicated_acknowledges_only_what_a_replica_has(start, until, append):
    (port,) = free_ports(1)
    primary = start("--port", str(port), "--repl-diskless-sync-delay", "0")
    replica = start("--replicaof", "127.0.0.1", str(port))
    await until(lambda: replica.raw.info("replication")["master_link_status"] == "up")
    await until(lambda: primary.raw.info("replication")["connected_slaves"] == 1)
    key = SessionKey("t", "s")
    store = Store(primary.url, durability="replicated", deadline=60.0)
    await store.open()
    await store.create(key, model="m")
    record = await store.acquire(key, expected_owner="", expected_epoch=0, me="me")
    assert await append(store, record.lease, 1, 0, 3) == 3
    assert replica.raw.hget(key.meta, "next") == b"3"

    os.kill(replica.process.pid, signal.SIGSTOP)
    try:
        # On a connection that wrote nothing WAIT would answer at once: sent again, the operation
        # must write again.
        for _ in range(2):
            fresh = Store(primary.url, durability="replicated", deadline=2.0)
            with pytest.raises(StorageUnavailable, match="no replica"):
                await append(fresh, record.lease, 2, 3, 3)
            await fresh.close()
    finally:
        os.kill(replica.process.pid, signal.SIGCONT)
    assert await append(store, record.lease, 2, 3, 3) == 6
    assert replica.raw.hget(key.meta, "next") == b"6"
    assert replica.raw.xlen(key.journal(record.generation)) == 2
    await store.delete(key)
    await store.close()
