"""Members of the family whose state grows are served like the others: nothing is lost or mixed."""

from collections.abc import Callable
from pathlib import Path

import pytest

from harness.daemons import DaemonProcess
from harness.redis_servers import RedisProcess
from harness.streams import absorbed, memory, prose
from lalte.checkpoints.tiny import write_tiny_model
from lalte.presets import tiny_lalte
from lalte.state.arrays import SEGMENT
from memoryd_client import Client

# Layers enough for a stored part, 512 KiB, to be full before the stream ends.
MEMBERS = {"lansa": ("gdn", "nsa", "nsa", "nsa", "nsa"), "transformer": ("full",) * 5}
CHECKPOINT_TOKENS = 256


@pytest.fixture(scope="module", params=MEMBERS)
def growing_model(request, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / request.param
    write_tiny_model(folder, seed=0, config=tiny_lalte(MEMBERS[request.param]))
    return folder


def test_what_was_read_survives_a_kill_and_copies_are_equal(
    growing_model: Path,
    start_redis: Callable[..., RedisProcess],
    start_daemon: Callable[..., DaemonProcess],
) -> None:
    server = start_redis(appendfsync="no")
    settings = {
        "model": growing_model,
        "redis_url": server.url,
        "checkpoint_tokens": CHECKPOINT_TOKENS,
        "export_key": "a key that signs what is exported",
    }

    def read_more(client: Client, seed: int) -> int:
        """In one go, so that what follows is several checkpoints."""
        client.append("s", prose(seed, words=120))
        return absorbed(client, "s").absorbed_tokens

    first = start_daemon("a", **settings)
    with first.client() as client:
        client.create_session("s")
        # Over a full segment and into another, a checkpoint at every turn.
        seed = 0
        while read_more(client, seed) < SEGMENT + CHECKPOINT_TOKENS:
            seed += 1
        client.snapshot_session("s", "then")
        then = memory(client, "s")
        # The blobs that follow are made of this one.
        for later in range(seed + 1, seed + 4):
            read_more(client, later)
        now = memory(client, "s")
        assert server.raw.info("commandstats")["cmdstat_copy"]["calls"] >= 3
        assert client.fork_session("s", "fork").acked_tokens == now[0]
        file = b"".join(client.export_session("s"))
    first.kill()

    with start_daemon("b", **settings, heartbeat_ttl=5.0).client() as client:
        assert memory(client, "s") == now
        assert memory(client, "fork") == now
        assert client.import_session("in", file).acked_tokens == now[0]
        assert memory(client, "in") == now
        client.restore_session("s", "then")
        assert memory(client, "s") == then
        read_more(client, seed + 1)
        assert memory(client, "s")[0] > then[0]
