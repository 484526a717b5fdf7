"""The private server that a daemon starts when it is given no Redis.

It is a child process on a unix socket with an append-only file. Two locks guard its data folder:

- `daemon.lock` is held by the daemon, so a second live daemon on the folder is refused.
- `server.lock` is held by the server itself, which inherits the locked descriptor. A server whose
  daemon was killed keeps it: the next daemon finds the lock taken and adopts the server through
  its socket, where starting a second one on the same files would mix both.

Whoever started or adopted the server shuts it down. A server that dies under a living daemon is
started again on its data; the store's own retries bridge the gap.
"""

import asyncio
import fcntl
import hashlib
import os
import statistics
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Literal, NoReturn

import redis.asyncio
import structlog
from redis import exceptions

from memoryd.errors import StorageUnavailable
from memoryd.storage.binaries import check_stamp, find_binary, read_version, write_stamp
from memoryd.storage.connection import connect_async
from memoryd.storage.errors import DataFolderBusy

MAX_SOCKET_PATH = 103
"""Bytes: sockaddr_un holds 104 on macOS and 108 on Linux, with the closing zero."""
START_SECONDS = 60.0
"""How long a server may give no answer at all; while it loads its file it answers that it does."""
STOP_SECONDS = 60.0
POLL_SECONDS = 0.01
WATCH_SECONDS = 0.1
"""Between two looks at whether the server still runs."""
RESTART_PAUSE_SECONDS = 1.0
"""Before the next try to start a server that would not start again."""

FAST_APPEND_SECONDS = 0.005
PROBE_KEY = "md1:probe"
PROBE_APPENDS = 32
PROBE_BYTES = 1024

log = structlog.get_logger(__name__)


class EmbeddedServer:
    """One server on one data folder.

    folder: where its files lie; made if absent. durability: "auto" takes "always" if a measured
    append then takes under 5 ms, else "everysec", and says which. binary: the server program,
    found by `binaries.find_binary` if None.

    After `start()`: `durability` as chosen, `adopted` (whether the server was already running) and
    `pid`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        durability: Literal["auto", "everysec", "always"] = "auto",
        binary: Path | None = None,
    ) -> None:
        self.folder = folder.absolute()
        self.adopted = False
        self.pid = 0
        self.durability: Literal["everysec", "always"] = "always"
        self._wanted = durability
        self._binary = binary
        self._daemon_lock: int | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()

    @property
    def socket(self) -> Path:
        """The unix socket: in the folder, or under the temporary folder if that path is too long.

        It follows from the folder alone, so that an orphaned server is found again.
        """
        inside = self.folder / "redis.sock"
        if len(os.fsencode(inside)) <= MAX_SOCKET_PATH:
            return inside
        name = hashlib.sha256(os.fsencode(self.folder)).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"memoryd-{os.getuid()}-{name}" / "redis.sock"

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    async def start(self) -> None:
        """Start the server or adopt the one that runs, and wait until it has loaded its data.

        Raises DataFolderBusy, ServerBinaryMissing, ServerTooOld, StorageUnavailable.
        """
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._make_socket_folder()
        self._lock_for_daemon()
        try:
            await self._start_or_adopt()
        except BaseException:
            if self._process is not None and self._process.poll() is None:
                # SIGTERM ends a server as SHUTDOWN does.
                self._process.terminate()
                self._process.wait()
            self._unlock_for_daemon()
            raise
        # What was once promised holds for every later server.
        self._wanted = self.durability
        self._watching = asyncio.create_task(self._watch(), name="embedded-server")
        log.info(
            "embedded.ready",
            socket=str(self.socket),
            durability=self.durability,
            adopted=self.adopted,
            pid=self.pid,
        )

    async def stop(self) -> None:
        """Shut the server down with all that it holds on disk, and free the folder.

        Raises StorageUnavailable if the server does not end.
        """
        self._stopping.set()
        if self._watching is not None:
            await self._watching
        try:
            await self._shut_down()
            await self._until_unlocked()
            if self._process is not None:
                await asyncio.to_thread(self._process.wait)
        finally:
            self._unlock_for_daemon()

    async def _watch(self) -> None:
        while not await self._stops_within(WATCH_SECONDS):
            if self._runs():
                continue
            log.error("embedded.died", pid=self.pid, see=str(self._logfile))
            self._process = None
            try:
                await self._start_or_adopt()
            except (StorageUnavailable, exceptions.RedisError, OSError) as error:
                # It may also die once more between its first answer and its last setting.
                log.error("embedded.not_restarted", error=str(error))
                await self._stops_within(RESTART_PAUSE_SECONDS)
            else:
                log.warning("embedded.restarted", pid=self.pid)

    async def _stops_within(self, seconds: float) -> bool:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)
        return self._stopping.is_set()

    def _runs(self) -> bool:
        if self._process is not None:
            return self._process.poll() is None
        lock = _lock(self.folder / "server.lock")
        if lock is not None:
            os.close(lock)
        return lock is None

    def _connect(self) -> redis.asyncio.Redis:
        return connect_async(self.url, socket_timeout=10.0, connections=1)

    def _make_socket_folder(self) -> None:
        folder = self.socket.parent
        folder.mkdir(mode=0o700, exist_ok=True)
        # Others can write to the temporary folder: a folder that is not ours alone is no place
        # for the socket.
        facts = folder.lstat()
        if folder != self.folder and (facts.st_uid != os.getuid() or facts.st_mode & 0o077):
            raise StorageUnavailable(
                f"{folder} belongs to or is open to somebody else: remove it, or choose a data "
                f"folder whose path has at most {MAX_SOCKET_PATH - len('/redis.sock')} bytes.",
                folder=folder,
            )

    def _lock_for_daemon(self) -> None:
        self._daemon_lock = _lock(self.folder / "daemon.lock")
        if self._daemon_lock is None:
            raise DataFolderBusy(
                f"Another daemon uses {self.folder} (its server listens on {self.socket}): stop it "
                "or give this daemon another data folder.",
                folder=self.folder,
                socket=self.socket,
            )

    def _unlock_for_daemon(self) -> None:
        if self._daemon_lock is not None:
            os.close(self._daemon_lock)
            self._daemon_lock = None

    async def _start_or_adopt(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        client = self._connect()
        try:
            while True:
                # A free lock after a failed ping: an orphan was still ending as we came.
                lock = _lock(self.folder / "server.lock") if self._process is None else None
                if lock is not None:
                    try:
                        self._spawn(lock)
                    finally:
                        os.close(lock)
                try:
                    await client.ping()
                    break
                except exceptions.BusyLoadingError:
                    # It answers, so it ends by itself however long its file is.
                    deadline = time.monotonic() + START_SECONDS
                    await asyncio.sleep(POLL_SECONDS)
                except (exceptions.ConnectionError, exceptions.TimeoutError, OSError) as error:
                    if self._process is not None and self._process.poll() is not None:
                        self._fail("ended at once")
                    if time.monotonic() > deadline:
                        self._fail(f"did not answer within {START_SECONDS:g} s ({error})")
                    await asyncio.sleep(POLL_SECONDS)
            self.adopted = self._process is None
            self.pid = int((await client.info("server"))["process_id"])
            self.durability = await self._choose_durability(client)
        finally:
            await client.aclose()

    def _spawn(self, lock: int) -> None:
        binary = find_binary(self._binary)
        version = read_version(binary)
        check_stamp(self.folder, version)
        write_stamp(self.folder, version)
        self.socket.unlink(missing_ok=True)
        settings = {
            "port": "0",
            "unixsocket": str(self.socket),
            "unixsocketperm": "700",
            "dir": str(self.folder),
            "logfile": str(self._logfile),
            "daemonize": "no",
            "save": "",
            "appendonly": "yes",
            "appendfsync": "everysec" if self._wanted == "everysec" else "always",
            "maxmemory-policy": "noeviction",
        }
        arguments = [part for name, value in settings.items() for part in (f"--{name}", value)]
        self._process = subprocess.Popen(  # noqa: S603
            [str(binary), *arguments],
            pass_fds=(lock,),
            # A session of its own: Ctrl-C must not end the server before the last checkpoint.
            start_new_session=True,
            # Freed blobs go back to the system only if they were mapped on their own.
            env={"PATH": os.defpath, "MALLOC_MMAP_THRESHOLD_": "262144"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    @property
    def _logfile(self) -> Path:
        return self.folder / "server.log"

    def _fail(self, what: str) -> NoReturn:
        said = ""
        if self._logfile.exists():
            lines = self._logfile.read_text(encoding="utf-8", errors="replace").splitlines()
            said = f"; its log ends with: {' | '.join(lines[-3:])}"
        raise StorageUnavailable(
            f"The embedded server on {self.folder} {what}{said}. See {self._logfile}.",
            folder=self.folder,
        )

    async def _choose_durability(
        self, client: redis.asyncio.Redis
    ) -> Literal["everysec", "always"]:
        if self._wanted == "everysec":
            await client.config_set("appendfsync", "everysec")
            return "everysec"
        await client.config_set("appendfsync", "always")
        if self._wanted == "always":
            return "always"
        seconds = await _measure_append(client)
        chosen: Literal["everysec", "always"] = (
            "always" if seconds < FAST_APPEND_SECONDS else "everysec"
        )
        await client.config_set("appendfsync", chosen)
        log.info(
            "embedded.durability",
            chosen=chosen,
            append_ms=round(1000 * seconds, 2),
            limit_ms=1000 * FAST_APPEND_SECONDS,
        )
        return chosen

    async def _shut_down(self) -> None:
        client = self._connect()
        try:
            await client.shutdown()
        except (exceptions.ConnectionError, exceptions.TimeoutError, OSError):
            # The connection ends with the server; a slow disk only makes the end take longer.
            pass
        except exceptions.RedisError as error:
            raise StorageUnavailable(
                f"The embedded server {self.pid} refused to shut down ({error}): see "
                f"{self._logfile}.",
                pid=self.pid,
            ) from error
        finally:
            await client.aclose()

    async def _until_unlocked(self) -> None:
        """Wait until the server's process is gone: only then is its lock free."""
        deadline = time.monotonic() + STOP_SECONDS
        while True:
            if self._process is not None:
                self._process.poll()
            lock = _lock(self.folder / "server.lock")
            if lock is not None:
                os.close(lock)
                return
            if time.monotonic() > deadline:
                raise StorageUnavailable(
                    f"The embedded server {self.pid} did not end within {STOP_SECONDS:g} s: see "
                    f"{self._logfile}.",
                    pid=self.pid,
                )
            await asyncio.sleep(POLL_SECONDS)


async def _measure_append(client: redis.asyncio.Redis) -> float:
    """Return the seconds of a median 1 KiB append under the present settings."""
    times: list[float] = []
    for _ in range(PROBE_APPENDS):
        begin = time.perf_counter()
        await client.xadd(PROBE_KEY, {"t": bytes(PROBE_BYTES)})
        times.append(time.perf_counter() - begin)
    await client.delete(PROBE_KEY)
    return statistics.median(times)


def _lock(path: Path) -> int | None:
    """Return a descriptor that holds the file's lock (flock), None if somebody else holds it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor
