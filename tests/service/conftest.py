"""A tiny random model (C = 8), daemons that serve it, and the servers behind them."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness.daemons import DaemonProcess
from harness.redis_servers import RedisProcess, server_binaries
from lalte.checkpoints.tiny import write_tiny_model
from memoryd_client import Client

BINARIES = server_binaries()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny", seed=0)


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder whose path leaves room for a unix socket's name."""
    folder = Path(tempfile.mkdtemp(prefix="mds"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def daemon(tiny_model: Path) -> Iterator[DaemonProcess]:
    """One daemon on its embedded server, for tests that keep to sessions of their own."""
    folder = Path(tempfile.mkdtemp(prefix="mds"))
    running = DaemonProcess(folder, model=tiny_model, checkpoint_tokens=64)
    yield running
    running.terminate()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def client(daemon: DaemonProcess) -> Iterator[Client]:
    with daemon.client() as client:
        yield client


@pytest.fixture
def start_daemon(
    tiny_model: Path, short_folder: Path
) -> Iterator[Callable[..., DaemonProcess]]:
    """Starts daemons that this test may kill. name: the same name starts on the same folder."""
    started: list[DaemonProcess] = []

    def start(name: str = "a", **settings: object) -> DaemonProcess:
        given: dict[str, object] = {"model": tiny_model, "checkpoint_tokens": 64, **settings}
        running = DaemonProcess(short_folder / name, **given)  # type: ignore[arg-type]
        started.append(running)
        return running

    yield start
    for running in started:
        running.resume() if running.alive else None
        running.kill()


@pytest.fixture(params=list(BINARIES))
def redis_binary(request: pytest.FixtureRequest) -> str:
    """Each kind of server that this machine has."""
    return BINARIES[request.param]


@pytest.fixture
def start_redis(short_folder: Path) -> Iterator[Callable[..., RedisProcess]]:
    """Starts servers that this test may kill; the same name starts on the same data."""
    started: list[RedisProcess] = []

    def start(name: str = "redis", *, binary: str | None = None, **settings: str) -> RedisProcess:
        running = RedisProcess(short_folder / name, binary or BINARIES["valkey"], **settings)
        started.append(running)
        return running

    yield start
    for running in started:
        running.kill()
