"""A daemon of its own for a benchmark: a private Redis server, a free port, a temporary folder."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

POLL_SECONDS = 0.05


@contextmanager
def own_daemon(model: Path | None, **settings: object) -> Iterator[str]:
    """The address of a daemon that is ready; it ends with the block. settings: by their names."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MEMORYD_")}
    environment |= {f"MEMORYD_{name.upper()}": str(value) for name, value in settings.items()}
    with tempfile.TemporaryDirectory(prefix="memoryd-bench-") as folder:
        log = Path(folder) / "daemon.log"
        command = [sys.executable, "-m", "memoryd", "serve", "--listen", "127.0.0.1:0"]
        command += ["--data-dir", folder, "--log-format", "json"]
        command += ["--model", str(model)] if model else []
        with log.open("wb") as out:
            process = subprocess.Popen(command, env=environment, stdout=out, stderr=out)
        try:
            yield _address(process, log)
        except BaseException:
            print(f"the daemon's log ends with:\n{log.read_text()[-4000:]}", file=sys.stderr)
            raise
        finally:
            process.terminate()
            process.wait()


def _address(process: "subprocess.Popen[bytes]", log: Path) -> str:
    while process.poll() is None:
        for line in log.read_text().splitlines():
            if line.startswith("{") and line.endswith("}"):
                entry = json.loads(line)
                if entry["event"] == "ready":
                    return str(entry["address"])
        time.sleep(POLL_SECONDS)
    raise SystemExit(f"the daemon did not start:\n{log.read_text()}")
