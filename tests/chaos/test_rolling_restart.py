"""Three daemons are restarted one after the other, and default clients notice nothing."""

import random
import shutil
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from chaos.sessions import Talker, compare
from chaos.world import World
from harness.processes import wait_until
from harness.redis_servers import server_binaries
from lalte.checkpoints.tiny import write_tiny_model
from memoryd_client import Client

SESSIONS = 6


@pytest.fixture
def world() -> Iterator[World]:
    folder = Path(tempfile.mkdtemp(prefix="mdc"))
    write_tiny_model(folder / "model")
    binary = server_binaries()["valkey"]
    world = World(folder, model=folder / "model", binary=binary, daemons=3, slots=32)
    yield world
    world.close()
    shutil.rmtree(folder, ignore_errors=True)


def test_no_call_fails_for_a_default_client_while_three_daemons_are_restarted(
    world: World,
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # noqa: T201
    # One target with every daemon behind it, as a name in DNS has them.
    target = f"ipv4:{','.join(world.addresses)}"
    talkers = [Talker(f"s{number}", seed, [target], Client) for number in range(SESSIONS)]
    stop = threading.Event()
    with ThreadPoolExecutor(SESSIONS) as pool:
        talking = [pool.submit(talker.talk, stop, 0.05) for talker in talkers]
        try:
            for daemon in world.daemons:
                before = [talker.counts.total() for talker in talkers]
                assert daemon.process.terminate() == 0
                daemon.restart()
                wait_until(
                    lambda before=before: all(
                        talker.counts.total() > count + 1 or talker.wrong
                        for talker, count in zip(talkers, before, strict=True)
                    ),
                    "every session has acted since",
                )
        finally:
            stop.set()
        for each in talking:
            each.result()
    assert [talker.wrong for talker in talkers] == [[]] * SESSIONS
    assert sum(talker.counts["broken off"] for talker in talkers) == 0
    with Client(world.addresses[0]) as client, Client(world.addresses[1]) as control:
        for talker in talkers:
            difference, tokens = compare(talker.name, talker.log, client, control, "again-")
            assert (difference.lost, difference.doubled, difference.why) == (0, 0, "")
            assert tokens > 0
