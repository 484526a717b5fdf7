"""A tiny random model (C = 8), daemons that serve it, and the servers behind them."""

import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from harness.daemons import Cluster, DaemonProcess
from harness.processes import wait_until
from harness.redis_servers import RedisProcess, server_binaries
from harness.streams import ENDLESS
from lalte.checkpoints.tiny import write_tiny_model
from memoryd.storage.keys import heartbeat_key
from memoryd_client import Client

BINARIES = server_binaries()
PAIR_CHECKPOINT_TOKENS = 256


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    write_tiny_model(folder, seed=0)
    return folder


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
    running = DaemonProcess(
        folder, model=tiny_model, checkpoint_tokens=64, max_reply_tokens=ENDLESS
    )
    yield running
    running.terminate()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def client(daemon: DaemonProcess) -> Iterator[Client]:
    with daemon.client() as client:
        yield client


@pytest.fixture(scope="session")
def _pair(tiny_model: Path) -> Iterator[Cluster]:
    folder = Path(tempfile.mkdtemp(prefix="mds"))
    redis = RedisProcess(folder / "redis", BINARIES["valkey"])

    def start(name: str, **settings: object) -> DaemonProcess:
        given: dict[str, object] = {
            "model": tiny_model,
            "checkpoint_tokens": PAIR_CHECKPOINT_TOKENS,
            "max_reply_tokens": ENDLESS,
            "redis_url": redis.url,
            **settings,
        }
        return DaemonProcess(folder / name, **given)  # type: ignore[arg-type]

    a, b = start("a"), start("b")
    with a.client() as on_a, b.client() as on_b:
        yield Cluster(redis, a, b, on_a, on_b, start)
    for process in (a, b, redis):
        process.kill()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def pair(_pair: Cluster) -> Iterator[Cluster]:
    """Two daemons on one server, awake and alive again after the test; `third` starts one more."""
    started: list[DaemonProcess] = []

    def third(**settings: object) -> DaemonProcess:
        started.append(_pair.third(f"third{uuid.uuid4().hex[:8]}", **settings))
        return started[-1]

    yield replace(_pair, third=third)
    for daemon in (_pair.a, _pair.b, *started):
        daemon.resume()
    for daemon in started:
        daemon.kill()
    for client in (_pair.on_a, _pair.on_b):
        heartbeat = heartbeat_key(client.get_stats().daemon_id)
        wait_until(lambda key=heartbeat: _pair.redis.raw.exists(key), "its heartbeat is back")


@pytest.fixture
def name() -> str:
    """A session's name that no other test uses."""
    return uuid.uuid4().hex[:12]


@pytest.fixture
def start_daemon(tiny_model: Path, short_folder: Path) -> Iterator[Callable[..., DaemonProcess]]:
    """Starts daemons that this test may kill. name: the same name starts on the same folder."""
    started: list[DaemonProcess] = []

    def start(name: str = "a", **settings: object) -> DaemonProcess:
        given: dict[str, object] = {"model": tiny_model, "checkpoint_tokens": 64, **settings}
        running = DaemonProcess(short_folder / name, **given)  # type: ignore[arg-type]
        started.append(running)
        return running

    yield start
    for running in started:
        running.end()


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
