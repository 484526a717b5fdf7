"""A daemon of one's own: a private Redis server, a free port, a temporary folder."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_POLL_SECONDS = 0.05
_LOG_CHARACTERS = 2000


class DaemonFailed(Exception):
    """The daemon did not start; the text is the end of its log."""


@contextmanager
def own_daemon(model: Path | None, **settings: object) -> Iterator[str]:
    """The address of a daemon that is ready; it ends with the block. settings: by their names.

    Call it from the main thread: SIGTERM would leave the daemon behind, so it ends that first.
    Raises DaemonFailed.
    """
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MEMORYD_")}
    environment |= {f"MEMORYD_{name.upper()}": str(value) for name, value in settings.items()}
    with tempfile.TemporaryDirectory(prefix="memoryd-") as folder:
        log = Path(folder) / "daemon.log"
        command = [sys.executable, "-m", "memoryd", "serve", "--listen", "127.0.0.1:0"]
        command += ["--data-dir", folder, "--log-format", "json"]
        command += ["--model", str(model)] if model else []
        with log.open("wb") as out:
            # In a session of its own: Ctrl-C is for this process, which then ends the daemon.
            process = subprocess.Popen(  # noqa: S603  our own arguments
                command, env=environment, stdout=out, stderr=out, start_new_session=True
            )

        def end_and_obey(number: int, _frame: object) -> None:
            _end(process)
            shutil.rmtree(folder)
            signal.signal(number, before)
            signal.raise_signal(number)

        before = signal.signal(signal.SIGTERM, end_and_obey)
        try:
            yield _address(process, log)
        finally:
            _end(process)
            signal.signal(signal.SIGTERM, before)


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    process.wait()


def _address(process: "subprocess.Popen[bytes]", log: Path) -> str:
    while process.poll() is None:
        for line in log.read_text().splitlines():
            if line.startswith("{") and line.endswith("}"):
                entry = json.loads(line)
                if entry["event"] == "ready":
                    return str(entry["address"])
        time.sleep(_POLL_SECONDS)
    raise DaemonFailed(f"the daemon did not start. It says: {log.read_text()[-_LOG_CHARACTERS:]}")
