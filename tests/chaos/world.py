"""The processes of a chaos run: daemons at fixed addresses, on one Redis under `always`."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import redis

from harness.daemons import DaemonProcess
from harness.processes import wait_until
from harness.redis_servers import RedisProcess
from memoryd.storage.keys import heartbeat_key

SETTINGS: dict[str, object] = {
    "slots": 8,  # fewer than sessions, so that they are evicted and loaded all the time
    "lanes": 4,
    "checkpoint_tokens": 64,
    "heartbeat_ttl": 2.0,
    "storage_deadline": 3.0,
    "durability": "always",
    # A reply that is continued is computed in other shapes than one that was not cut off; in
    # bfloat16 the rounding alone would now and then choose another token.
    "dtype": "float32",
}
UP_SECONDS = 120.0


class Daemon:
    """One daemon at one address, which processes come and go behind."""

    def __init__(self, folder: Path, start: Callable[..., DaemonProcess]) -> None:
        self._folder = folder
        self._start = start
        self._lives = 0
        self.process = self._new()
        self.address = self.process.address

    @property
    def daemon_id(self) -> str:
        """Of the process that runs now, or ran last."""
        return self._daemon_id

    def restart(self) -> None:
        """A new process at the same address; tried again where it cannot start for now."""

        def started() -> bool:
            try:
                self.process = self._new(listen=self.address)
            except AssertionError:  # it gave up, as it should where Redis is away
                return False
            return True

        wait_until(started, f"the daemon at {self.address} starts", UP_SECONDS)

    def _new(self, **settings: object) -> DaemonProcess:
        # Each life has a folder: waiting for "ready" reads the whole log of a folder.
        self._lives += 1
        process = self._start(self._folder / str(self._lives), **settings)
        self._daemon_id = str(process.wait_for("ready")["daemon_id"])
        return process


class World:
    """Redis and `daemons` daemons. folder: short, for it holds a unix socket."""

    def __init__(
        self, folder: Path, *, model: Path, binary: str, daemons: int, **settings: object
    ) -> None:
        self._folder = folder
        self._binary = binary
        self.redis = self._start_redis()

        def start(home: Path, **more: object) -> DaemonProcess:
            given: dict[str, Any] = {**SETTINGS, **settings, **more}
            return DaemonProcess(home, model=model, redis_url=self.redis.url, **given)

        self.daemons: list[Daemon] = []
        for number in range(daemons):
            self.daemons.append(Daemon(folder / f"d{number}", start))

    def _start_redis(self) -> RedisProcess:
        return RedisProcess(self._folder / "redis", self._binary, appendfsync="always")

    @property
    def addresses(self) -> list[str]:
        return [daemon.address for daemon in self.daemons]

    def restart_redis(self) -> None:
        """A new server on the data of the killed one."""
        self.redis = self._start_redis()

    def tell_redis(self, command: Callable[[redis.Redis], object]) -> None:
        """Runs a command, again until Redis answers it."""
        pause = threading.Event()
        while True:
            try:
                command(self.redis.raw)
                return
            except (redis.RedisError, OSError):
                pause.wait(0.05)

    def forget_heartbeat(self, daemon_id: str) -> None:
        """What the passing of a heartbeat's time to live does."""
        self.tell_redis(lambda raw: raw.delete(heartbeat_key(daemon_id)))

    def close(self) -> None:
        for daemon in self.daemons:
            daemon.process.kill()
        self.redis.kill()
