"""A primary that a Sentinel replaces."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from harness.processes import ChildProcess, wait_until
from harness.redis_cluster import free_ports
from harness.redis_servers import RedisProcess, raw_client, server_binaries
from memoryd.storage.keys import SessionKey
from memoryd.storage.store import Store

BINARY = server_binaries()["valkey"]


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[tuple[int, RedisProcess, RedisProcess]]:
    """The Sentinel's port, the primary and its replica, in step."""
    port, other, watch = free_ports(3)
    primary = RedisProcess(tmp_path / "p", BINARY, port=str(port))
    replica = RedisProcess(
        tmp_path / "r",
        BINARY,
        port=str(other),
        replicaof=f"127.0.0.1 {port}",
        **{"repl-diskless-sync-delay": "0"},
    )
    wait_until(
        lambda: replica.raw.info("replication")["master_link_status"] == "up", "they are in step"
    )
    settings = tmp_path / "sentinel.conf"
    settings.write_text(
        f"port {watch}\ndir {tmp_path}\nsentinel monitor mymaster 127.0.0.1 {port} 1\n"
        "sentinel down-after-milliseconds mymaster 1500\nsentinel failover-timeout mymaster 5000\n"
    )
    sentinel = ChildProcess([BINARY, str(settings), "--sentinel"], {}, tmp_path / "sentinel.log")
    with raw_client(port=watch) as asked:

        def knows_the_replica() -> bool:
            try:
                return len(asked.execute_command("SENTINEL", "REPLICAS", "mymaster")) == 1
            except redis.ConnectionError:
                return False

        wait_until(knows_the_replica, "the Sentinel knows the replica")
    yield watch, primary, replica
    for process in (sentinel, primary, replica):
        process.kill()


async def test_a_session_goes_on_where_sentinel_says(watched, append):
    watch, primary, replica = watched
    store = Store(
        f"redis-sentinel://127.0.0.1:{watch}/mymaster", durability="everysec", deadline=60.0
    )
    await store.open()
    key = SessionKey("t", "s")
    await store.create(key, model="m")
    lease = (await store.acquire(key, expected_owner="", expected_epoch=0, me="me")).lease
    assert await append(store, lease, 1, 0, 3) == 3
    wait_until(lambda: replica.raw.hget(key.meta, "next") == b"3", "the replica has it")
    primary.kill()
    assert await append(store, lease, 2, 3, 3) == 6
    assert replica.raw.info("replication")["role"] == "master"
    await store.close()
