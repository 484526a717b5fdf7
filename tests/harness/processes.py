"""A child process that says in its log when it is ready."""

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

DEADLINE = 120.0

T = TypeVar("T")


class ChildProcess:
    """Runs a command, keeps its JSON log lines, and ends with the test whatever happens."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self.log_path = log
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                command, env={**os.environ, **environment}, stdout=output, stderr=output
            )

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def events(self, name: str) -> list[dict[str, Any]]:
        """Log lines with this event, oldest first."""
        found = []
        # What stands behind the last end of a line is being written.
        for line in self.log_path.read_text(errors="replace").split("\n")[:-1]:
            if line.startswith("{"):
                entry = json.loads(line)
                if entry.get("event") == name:
                    found.append(entry)
        return found

    def wait_for(self, name: str, count: int = 1) -> dict[str, Any]:
        """The log line that makes it `count` of them."""

        def seen() -> bool:
            assert self.alive or len(self.events(name)) >= count, self.log_path.read_text()
            return len(self.events(name)) >= count

        wait_until(seen, f"{count} log lines {name!r}")
        return self.events(name)[count - 1]

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def pause(self) -> None:
        """Returns when the kernel has stopped every thread."""
        self.signal(signal.SIGSTOP)
        threads = Path(f"/proc/{self.process.pid}/task")

        def stopped() -> bool:
            try:
                stats = [(thread / "stat").read_text() for thread in threads.iterdir()]
            except OSError:  # one ended before it could be stopped
                return False
            return all(stat.rpartition(")")[2].split()[0] == "T" for stat in stats)

        wait_until(stopped, "the process stops")

    def resume(self) -> None:
        self.signal(signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL, and gone when this returns."""
        if self.alive:
            self.process.kill()
        self.process.wait(DEADLINE)

    def terminate(self) -> int:
        """SIGTERM; the exit status."""
        self.signal(signal.SIGTERM)
        return self.process.wait(DEADLINE)


def wait_until(condition: Callable[[], T | None], what: str, deadline: float = DEADLINE) -> T:
    """Waits for a condition, not for a time; gives what it gave, fails when it does not come."""
    end = time.monotonic() + deadline
    pause = threading.Event()
    while not (met := condition()):
        assert time.monotonic() < end, f"waited {deadline:g} s in vain: {what}"
        pause.wait(0.01)
    return met
