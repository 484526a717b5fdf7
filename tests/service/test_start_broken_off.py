"""A daemon told to end while it starts ends, and leaves no server behind."""

import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from harness.daemons import DaemonProcess
from harness.processes import ChildProcess
from harness.redis_servers import raw_client


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_start_that_is_broken_off_takes_its_server_along(
    tiny_model: Path,
    short_folder: Path,
    start_daemon: Callable[..., DaemonProcess],
    number: signal.Signals,
) -> None:
    environment = {
        "MEMORYD_MODEL": str(tiny_model),
        "MEMORYD_DATA_DIR": str(short_folder / "a"),
        "MEMORYD_LISTEN": "127.0.0.1:0",
        "MEMORYD_LOG_FORMAT": "json",
    }
    starting = ChildProcess(
        [sys.executable, "-m", "memoryd", "serve"], environment, short_folder / "log"
    )
    socket = starting.wait_for("embedded.ready")["socket"]
    starting.signal(number)
    assert starting.process.wait(60) == 0
    starting.kill()
    with pytest.raises(redis.ConnectionError), raw_client(unix_socket_path=socket) as server:
        server.ping()
    start_daemon()  # nothing holds the folder
