"""Daemons under test: the real `memoryd serve` in a process of its own."""

import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import redis

from harness.processes import ChildProcess
from harness.redis_servers import RedisProcess, raw_client
from memoryd_client import Client


class DaemonProcess(ChildProcess):
    """A running daemon. settings: as in `memoryd.config.Settings`, by name."""

    def __init__(self, folder: Path, *, model: Path, **settings: object) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        given = {
            "model": model,
            "listen": "127.0.0.1:0",
            "data_dir": folder,
            "threads": 1,
            "log_format": "json",
            **settings,
        }
        environment = {
            f"MEMORYD_{name.upper()}": str(value)
            for name, value in given.items()
            if value is not None
        }
        already = (folder / "daemon.log").exists()
        super().__init__(
            [sys.executable, "-m", "memoryd", "serve"], environment, folder / "daemon.log"
        )
        earlier = len(self.events("ready")) if already else 0
        try:
            self.address = str(self.wait_for("ready", earlier + 1)["address"])
        except BaseException:
            self.kill()
            raise

    def end(self) -> None:
        """Kills the daemon, and the private servers that it and its predecessors left behind."""
        if self.alive:
            self.resume()
        self.kill()
        for ready in self.events("embedded.ready"):
            with (
                suppress(redis.ConnectionError),
                raw_client(unix_socket_path=ready["socket"]) as server,
            ):
                server.shutdown(nosave=True)

    def client(self, **options: object) -> Client:
        return Client(self.address, **options)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Cluster:
    """Two daemons, a and b, on one server; tests keep to sessions of their own."""

    redis: RedisProcess
    a: DaemonProcess
    b: DaemonProcess
    on_a: Client
    on_b: Client
    third: Callable[..., DaemonProcess]  # starts one more, which its test may kill
