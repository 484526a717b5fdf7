"""Servers on which sessions would not be safe are refused, weaker ones are warned of."""

import subprocess
import tempfile

import pytest
import redis
import structlog

from harness.redis_servers import raw_client
from memoryd.storage.errors import UnsuitableServer
from memoryd.storage.keys import SessionKey
from memoryd.storage.server import check_server
from memoryd.storage.store import Store


async def test_a_server_that_evicts_is_refused(start):
    server = start("--maxmemory", "100mb", "--maxmemory-policy", "volatile-lru")
    store = Store(server.url, durability="everysec")
    with pytest.raises(UnsuitableServer, match="noeviction"):
        await store.open()
    server.raw.config_set("maxmemory", 0)
    await store.open()
    await store.close()


@pytest.mark.parametrize(
    ("info", "says"),
    [
        ({"redis_version": "6.2.14"}, "Redis 6.2.14"),
        ({"redis_version": "7.2.4", "valkey_version": "7.2.5"}, "Valkey 7.2.5"),
        ({"redis_version": "7.4.0", "cluster_enabled": 1}, "write redis-cluster://"),
        ({"redis_version": "7.4.0", "role": "slave"}, "replica"),
        ({"redis_version": "7.4.0", "maxmemory": 1, "maxmemory_policy": "allkeys-lru"}, "evicts"),
    ],
)
def test_an_unsuitable_server_is_refused_by_name(info, says):
    with pytest.raises(UnsuitableServer, match=says):
        check_server(info, "unix:///s")


async def test_wrong_credentials_are_told_at_once(start):
    server = start()
    server.raw.config_set("requirepass", "secret")
    store = Store(server.url, durability="everysec", deadline=60.0)
    with pytest.raises(UnsuitableServer, match="password") as refused:
        await store.open()
    assert "secret" not in str(refused.value)
    await store.close()


async def test_a_user_with_our_keys_alone_can_do_everything(start, append):
    server = start()
    server.raw.acl_setuser(
        "memoryd",
        enabled=True,
        passwords=["+secret"],
        keys=["md1:*"],
        commands=["+@all", "-@admin", "-@dangerous", "+info"],
    )
    store = Store(f"unix://memoryd:secret@{server.url[7:]}", durability="always")
    await store.open()
    key = SessionKey("t", "s")
    await store.create(key, model="m", ttl_ms=100_000)
    record = await store.acquire(key, expected_owner="", expected_epoch=0, me="me")
    await append(store, record.lease, 1, 0, 3)
    assert await store.check(record.lease) == 3
    await store.release(record.lease)
    assert [found.key for found in (await store.list_sessions("t"))[0]] == [key]
    await store.delete(key)
    await store.close()


async def test_a_server_that_keeps_less_than_stated_is_warned_of(start):
    server = start()
    for durability, event in (
        ("everysec", "storage.no_append_only_file"),
        ("always", "storage.weaker_durability"),
        ("replicated", "storage.no_replica"),
    ):
        store = Store(server.url, durability=durability)
        with structlog.testing.capture_logs() as logs:
            await store.open()
        await store.close()
        assert event in [entry["event"] for entry in logs]


async def test_a_server_that_is_still_loading_is_not_misjudged(binary, until):
    """While it loads its file it says that it has none."""
    with tempfile.TemporaryDirectory(prefix="mdt") as folder:
        socket = f"{folder}/s"
        raw = raw_client(unix_socket_path=socket)

        def begin(*settings: str) -> "subprocess.Popen[bytes]":
            command = [binary, "--port", "0", "--unixsocket", socket, "--dir", folder]
            command += ["--save", "", "--appendonly", "yes", *settings]
            return subprocess.Popen(command, stdout=subprocess.DEVNULL)

        def says(**expected: int) -> bool:
            try:
                return expected.items() <= raw.info("persistence").items()
            except redis.ConnectionError:
                return False

        first = begin()
        await until(lambda: says(loading=0))
        with raw.pipeline(transaction=False) as pipe:
            for number in range(6000):
                pipe.set(f"key{number}", "x")
            pipe.execute()
        raw.shutdown(nosave=True)
        first.wait()

        slow = begin("--key-load-delay", "500")
        try:
            await until(lambda: says(loading=1, aof_enabled=0))
            store = Store(f"unix://{socket}", durability="everysec")
            with structlog.testing.capture_logs() as logs:
                await store.open()
            await store.close()
            assert says(loading=0)
            assert "storage.no_append_only_file" not in [entry["event"] for entry in logs]
        finally:
            raw.close()
            slow.kill()
            slow.wait()
