"""The heartbeat lives as long as the daemon answers, and no longer."""

import threading
import uuid

import pytest

from harness.processes import wait_until
from memoryd.errors import StorageUnavailable
from memoryd.storage.heartbeat import Heartbeat
from memoryd.storage.keys import heartbeat_key

TTL = 0.6
TICK_SECONDS = TTL / 20


class Ticker:
    """An event loop's ticks, which a test can stop."""

    def __init__(self, heartbeat: Heartbeat) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(heartbeat,))
        self._thread.start()

    def _run(self, heartbeat: Heartbeat) -> None:
        while not self._stop.wait(TICK_SECONDS):
            heartbeat.beat()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


@pytest.fixture
def heartbeat(server):
    heartbeat = Heartbeat(server.url, uuid.uuid4().hex, "10.0.0.1:50051", ttl=TTL)
    heartbeat.start()
    yield heartbeat
    heartbeat.stop()


async def test_a_started_daemon_is_alive_at_its_address_until_it_stops(server, store):
    heartbeat = Heartbeat(server.url, "an owner", "10.0.0.1:50051")
    assert await store.heartbeat_alive("an owner") is None
    heartbeat.start()
    assert await store.heartbeat_alive("an owner") == "10.0.0.1:50051"
    assert 0 < server.raw.pttl(heartbeat_key("an owner")) <= 10_000
    heartbeat.stop()
    assert await store.heartbeat_alive("an owner") is None


def test_the_key_outlives_its_ttl_while_the_loop_ticks(server):
    # Longer than a busy machine may keep a thread from running.
    heartbeat = Heartbeat(server.url, uuid.uuid4().hex, "10.0.0.1:50051", ttl=4.5)
    heartbeat.start()
    ticker = Ticker(heartbeat)
    left = [server.raw.pttl(heartbeat._key)]
    renewed = 0

    def renewed_thrice() -> bool:
        nonlocal renewed
        left.append(server.raw.pttl(heartbeat._key))
        assert left[-1] > 0, "it is gone"
        renewed += left[-1] > left[-2]
        return renewed == 3  # that is its time to live

    wait_until(renewed_thrice, "it is renewed")
    ticker.stop()
    heartbeat.stop()


async def test_a_stalled_loop_lets_the_key_vanish_and_a_revived_one_brings_it_back(
    server, heartbeat, until
):
    ticker = Ticker(heartbeat)
    ticker.stop()
    await until(lambda: not server.raw.exists(heartbeat._key))
    assert heartbeat._thread.is_alive()
    ticker = Ticker(heartbeat)
    await until(lambda: server.raw.exists(heartbeat._key))
    ticker.stop()


async def test_the_heartbeat_comes_back_after_the_server_was_away(start, until):
    server = start()
    heartbeat = Heartbeat(server.url, "owner", "address", ttl=TTL)
    heartbeat.start()
    ticker = Ticker(heartbeat)
    server.raw.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    server.raw.delete(heartbeat._key)
    await until(lambda: server.raw.exists(heartbeat._key))
    ticker.stop()
    heartbeat.stop()


def test_an_absent_server_is_unavailable_at_start(tmp_path):
    heartbeat = Heartbeat(f"unix://{tmp_path}/nothing", "owner", "address", ttl=0.1)
    with pytest.raises(StorageUnavailable):
        heartbeat.start()
    heartbeat.stop()
