"""A daemon on a Redis Cluster: quotas, sessions that cannot be read, and shards that are away."""

import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from harness.daemons import DaemonProcess
from harness.processes import wait_until
from harness.redis_cluster import RedisCluster
from harness.redis_servers import server_binaries
from memoryd.cli import app
from memoryd.storage.keys import SessionKey, heartbeat_key
from memoryd_client import (
    BadArgument,
    Client,
    QuotaExceeded,
    Retry,
    Sampling,
    SessionNotFound,
    StateCorrupt,
)

TENANT = "default"
BRIEF = Sampling(max_tokens=2)


@pytest.fixture(scope="module")
def cluster() -> Iterator[RedisCluster]:
    folder = Path(tempfile.mkdtemp(prefix="mdcl"))
    running = RedisCluster(folder, server_binaries()["valkey"])
    wait_until(running.healthy, "the cluster is whole")
    yield running
    running.kill()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def daemon(cluster: RedisCluster, tiny_model: Path) -> Iterator[DaemonProcess]:
    folder = Path(tempfile.mkdtemp(prefix="mds"))
    running = DaemonProcess(
        folder, model=tiny_model, redis_url=cluster.url, checkpoint_tokens=64, storage_deadline=3
    )
    yield running
    running.kill()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def client(daemon: DaemonProcess) -> Iterator[Client]:
    with daemon.client(retry=Retry(give_up_after=0)) as client:
        yield client


def test_quotas_hold_over_all_shards(client: Client) -> None:
    sessions = [uuid.uuid4().hex for _ in range(6)]
    client.set_quota(TENANT, sessions=len(sessions), stored_bytes=1 << 30, concurrent_queries=1)
    for session in sessions:
        client.create_session(session)
        client.append(session, "a river that flows")
        assert client.query(session, "What?", sampling=BRIEF).text() is not None
    client.snapshot_session(sessions[0], "one")
    with pytest.raises(QuotaExceeded, match="sessions"):
        client.fork_session(sessions[0], "copy")
    used = client.get_quota(TENANT).used
    assert used.sessions == len(sessions)
    assert used.concurrent_queries == 0
    client.set_quota(TENANT, stored_bytes=used.stored_bytes, tokens_per_minute=100_000)
    with pytest.raises(QuotaExceeded, match="bytes"):
        client.append(sessions[0], "more")
    for session in sessions[1:]:
        client.delete_session(session)
    client.append(sessions[0], "more")
    client.delete_session(sessions[0])
    after = client.set_quota(
        TENANT, defaults=["sessions", "stored_bytes", "tokens_per_minute", "concurrent_queries"]
    )
    assert after.own == ()


def test_a_session_whose_record_cannot_be_read_is_discarded(
    client: Client, cluster: RedisCluster, daemon: DaemonProcess
) -> None:
    name = uuid.uuid4().hex
    client.create_session(name)
    client.append(name, "a river that flows")
    with pytest.raises(BadArgument, match="can be read"):
        client.discard_session(TENANT, name)
    meta = SessionKey(TENANT, name).meta
    cluster.holder(meta).raw.hset(meta, "ttl_ms", "for ever")
    for call in (lambda: client.get_session(name), lambda: client.delete_session(name)):
        with pytest.raises(StateCorrupt, match="discard"):
            call()
    discarded = CliRunner().invoke(
        app, ["admin", "discard", TENANT, name, "--yes", "--target", daemon.address]
    )
    assert discarded.exit_code == 0, discarded.output
    assert "2 keys" in discarded.output
    with pytest.raises(SessionNotFound):
        client.discard_session(TENANT, name)
    client.create_session(name)
    assert client.get_session(name).acked_tokens == 0
    client.delete_session(name)


def test_figures_are_given_while_a_shard_is_down(
    client: Client, cluster: RedisCluster, daemon: DaemonProcess
) -> None:
    whole = client.get_stats()
    assert whole.missing == ()
    assert whole.redis_used_bytes > 0
    spared = cluster.holder(heartbeat_key(whole.daemon_id))
    victim = next(node for node in cluster.primaries() if node is not spared)
    port = int(victim.raw.execute_command("ROLE")[2][0][1])
    shard = [victim, next(node for node in cluster.nodes if node.port == port)]
    for node in shard:
        node.kill()
    try:
        # Figures are believed for a second.
        wait_until(lambda: client.get_stats().missing, "the shard is missed")
        figures = client.get_stats()
        assert figures.missing == ("redis_used_bytes",)
        assert figures.redis_used_bytes == 0
        assert figures.slots_total == whole.slots_total
        assert figures.daemon_id == whole.daemon_id
        shown = CliRunner().invoke(app, ["admin", "stats", "--target", daemon.address])
        assert "a server did not answer" in shown.output
    finally:
        for node in shard:
            cluster.restart(node)

    def complete() -> bool:
        return client.get_stats().missing == ()

    wait_until(complete, "the shard is back")
