"""The tokenizer and turn format of a tiny model, and a real server for what is journaled."""

import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from harness.redis_servers import RedisProcess, server_binaries
from lalte.checkpoints.tiny import write_tiny_model
from lalte.text import Tokenizer, TurnFormat
from memoryd.sessions.text import TextFramer
from memoryd.storage.store import Store

TURN_TIMEOUT_MS = 1000


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    write_tiny_model(folder, seed=0)
    return folder


@pytest.fixture(scope="session")
def tokenizer(model_folder: Path) -> Tokenizer:
    return Tokenizer.load(model_folder)


@pytest.fixture(scope="session")
def turn_format(model_folder: Path) -> TurnFormat:
    return TurnFormat.from_json((model_folder / "turn_format.json").read_text("utf-8"))


@pytest.fixture(scope="session")
def framer(tokenizer: Tokenizer, turn_format: TurnFormat) -> TextFramer:
    return TextFramer(tokenizer, turn_format, turn_timeout_ms=TURN_TIMEOUT_MS)


@pytest.fixture
def redis() -> Iterator[RedisProcess]:
    with tempfile.TemporaryDirectory(prefix="mds", ignore_cleanup_errors=True) as folder:
        running = RedisProcess(Path(folder), server_binaries()["valkey"])
        yield running
        running.resume()
        running.kill()


@pytest.fixture
async def store(redis: RedisProcess) -> AsyncIterator[Store]:
    store = Store(redis.url, durability="everysec", socket_timeout=1.0, deadline=1.0)
    await store.open()
    yield store
    await store.close()
