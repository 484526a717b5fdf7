"""Every member of the family is served: nothing is lost or mixed, also where the state grows."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from harness.daemons import DaemonProcess
from harness.redis_servers import RedisProcess
from harness.streams import checkpointed, forget_heartbeat, memory, prose
from lalte.checkpoints.tiny import write_tiny_model
from lalte.presets import tiny_lalte
from lalte.state import nbytes
from lalte.state.arrays import SEGMENT
from memoryd_client import Client

CHECKPOINT_TOKENS = 256


@dataclass(frozen=True)
class Member:
    """kinds: its layers. length: tokens to read before the snapshot."""

    kinds: tuple[str, ...]
    length: int

    @property
    def builds_on_blobs(self) -> bool:
        return self.length > SEGMENT


# Two fill a segment with their streams, and a stored part, 512 KiB, with their many layers.
LONG, SHORT = SEGMENT + CHECKPOINT_TOKENS, 300
MEMBERS = {
    "gdn": Member(("gdn", "gdn"), SHORT),
    "gdn-swa": Member(("gdn", "swa"), SHORT),
    "lansa": Member(("gdn", "nsa", "nsa", "nsa", "nsa"), LONG),
    "gdn-attention": Member(("gdn", "full", "full", "full", "full"), LONG),
    "transformer++": Member(("full", "full"), SHORT),
}


@pytest.fixture(scope="module", params=MEMBERS)
def member(request) -> Member:
    return MEMBERS[request.param]


@pytest.fixture(scope="module")
def folder(member: Member, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    write_tiny_model(folder, seed=0, config=tiny_lalte(member.kinds))
    return folder


def test_what_was_read_survives_a_kill_and_copies_are_equal(
    member: Member,
    folder: Path,
    start_redis: Callable[..., RedisProcess],
    start_daemon: Callable[..., DaemonProcess],
) -> None:
    server = start_redis()
    settings = {
        "model": folder,
        "redis_url": server.url,
        "checkpoint_tokens": CHECKPOINT_TOKENS,
        "export_key": "a key that signs what is exported",
    }

    def read_more(client: Client, seed: int) -> int:
        """More than one checkpoint's worth, and a checkpoint."""
        client.append("s", prose(seed, words=120))
        return checkpointed(client, "s", CHECKPOINT_TOKENS).absorbed_tokens

    first = start_daemon("a", **settings)
    with first.client() as client:
        model, config = client.get_model(), tiny_lalte(member.kinds)
        assert model.state_bytes == nbytes(config, torch.bfloat16)
        added = nbytes(config, torch.bfloat16, 8) - model.state_bytes
        assert 8 * model.token_bytes == added
        client.create_session("s")
        seed = 0
        while read_more(client, seed) < member.length:
            seed += 1
        client.snapshot_session("s", "then")
        then = memory(client, "s")
        for later in range(seed + 1, seed + 4):
            read_more(client, later)
        now = memory(client, "s")
        if member.builds_on_blobs:
            assert server.raw.info("commandstats")["cmdstat_copy"]["calls"] >= 3
        assert client.fork_session("s", "fork").acked_tokens == now[0]
        file = b"".join(client.export_session("s"))
        daemon_id = client.get_stats().daemon_id
    first.kill()
    forget_heartbeat(server.raw, daemon_id)

    with start_daemon("b", **settings).client() as client:
        assert memory(client, "s") == now
        assert memory(client, "fork") == now
        assert client.import_session("in", file).acked_tokens == now[0]
        assert memory(client, "in") == now
        client.restore_session("s", "then")
        assert memory(client, "s") == then
        read_more(client, seed + 1)
        assert memory(client, "s")[0] > then[0]
