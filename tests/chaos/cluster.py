# ruff: noqa: T201  (a command line speaks by printing)
"""The same on a cluster: primaries are killed under `replicated`, and each write gap is measured.

`python -m chaos.cluster --seconds N --seed N` (from `tests/`, or `make chaos-cluster`).
"""

import argparse
import asyncio
import random
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from chaos.run import UNDISTURBED, Outcome
from chaos.sessions import Talker, compare
from chaos.world import SETTINGS, Daemon, World
from harness.daemons import DaemonProcess
from harness.processes import wait_until
from harness.redis_cluster import SHARDS, ClusterNode, RedisCluster
from harness.redis_servers import server_binaries
from lalte.checkpoints.tiny import write_tiny_model
from memoryd.errors import StorageUnavailable
from memoryd.storage.keys import SessionKey
from memoryd.storage.store import Store
from memoryd_client import Client

ON_A_CLUSTER: dict[str, object] = {
    **SETTINGS,
    "durability": "replicated",
    # Longer than a failover takes, or every owner would count as dead after each.
    "heartbeat_ttl": 10.0,
    "storage_deadline": 15.0,
}
PROBE_SECONDS = 0.005
AT_ONCE = 0.3
"""Share of killed primaries that are back before anybody can be elected in their place."""


@dataclass(frozen=True)
class Failover:
    """at: seconds since the run's begin; the others are seconds since the kill.

    elected: until the replica led; None where the killed node was back before that. back: until it
    was started again. gap: until the next acknowledged write of the shard, which needs a leader
    and a replica in step with it.
    """

    at: float
    elected: float | None
    back: float
    gap: float

    def __str__(self) -> str:
        elected = f"elected {self.elected:4.1f}" if self.elected is not None else "not elected "
        return f"{self.at:7.1f} s: {elected}, restarted {self.back:4.1f}, written {self.gap:4.1f}"


class Probe:
    """Writes into one session of a shard without end; says when a write was acknowledged last."""

    def __init__(self, cluster: RedisCluster, node: ClusterNode) -> None:
        number = 0
        while cluster.holder(SessionKey("probe", str(number)).meta) is not node:
            number += 1
        self.key = SessionKey("probe", str(number))
        self.acked_at = 0.0
        self.lost = 0
        self._url = cluster.url
        self._over = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()

    async def _run(self) -> None:
        store = Store(self._url, durability="replicated")
        await store.open()
        await store.create(self.key, model="m")
        record = await store.acquire(self.key, expected_owner="", expected_epoch=0, me="probe")
        assert record is not None
        end = op = 0
        while not self._over.is_set():
            op += 1
            acked = None
            while acked is None and not self._over.is_set():
                with suppress(StorageUnavailable):
                    acked = await store.append(
                        record.lease,
                        op_id=op,
                        expected_next=end,
                        tokens=[op],
                        text=b"",
                        writers=b"",
                        fields={},
                    )
            if acked is not None:
                end, self.acked_at = acked, time.monotonic()
            await asyncio.sleep(PROBE_SECONDS)
        entries = await store.read_journal(record.lease, 0)
        self.lost = max(0, end - len(entries))
        await store.close()


class ClusterWorld:
    """A cluster, daemons on it, and one probe for each shard."""

    def __init__(self, folder: Path, *, model: Path, binary: str, daemons: int) -> None:
        self.cluster = RedisCluster(folder / "cluster", binary, repl_backlog_size="64mb")

        def start(home: Path, **more: object) -> DaemonProcess:
            given: dict[str, Any] = {**ON_A_CLUSTER, **more}
            return DaemonProcess(home, model=model, redis_url=self.cluster.url, **given)

        self.daemons: list[Daemon] = []
        self.probes: list[Probe] = []
        try:
            for number in range(daemons):
                self.daemons.append(Daemon(folder / f"d{number}", start))
            for node in self.cluster.nodes[:SHARDS]:
                self.probes.append(Probe(self.cluster, node))
        except BaseException:
            self.close()
            raise

    @property
    def addresses(self) -> list[str]:
        return [daemon.address for daemon in self.daemons]

    def close(self) -> None:
        for probe in self.probes:
            probe.stop()
        for daemon in self.daemons:
            daemon.process.kill()
        self.cluster.kill()


def kill_a_primary(world: ClusterWorld, draw: random.Random, begin: float) -> Failover:
    """Ends when the cluster is whole again and the shard has acknowledged a write."""
    shard = draw.randrange(SHARDS)
    luck, pause = draw.random(), draw.uniform(0.5, 5.0)
    probe = world.probes[shard]
    primary = world.cluster.holder(probe.key.meta)
    killed_at = time.monotonic()
    primary.kill()
    elected = None
    if luck >= AT_ONCE:
        wait_until(
            lambda: world.cluster.holder(probe.key.meta) is not primary, "a replica is elected"
        )
        elected = time.monotonic() - killed_at
        threading.Event().wait(pause)
    back = time.monotonic() - killed_at
    world.cluster.restart(primary)
    back_at = time.monotonic()
    wait_until(lambda: probe.acked_at > back_at, "writes of the shard are acknowledged", 120.0)
    # The first acknowledgement may be older than the one that we saw: at most one probe's pause.
    gap = probe.acked_at - killed_at
    wait_until(world.cluster.healthy, "the cluster is whole", 120.0)
    return Failover(killed_at - begin, elected, back, gap)


def run(
    seconds: float, seed: int, *, sessions: int, folder: Path, model: Path
) -> tuple[Outcome, list[Failover]]:
    """Talk while primaries (and now and then a daemon) are killed; then compare with the logs."""
    binary = server_binaries()["valkey"]
    draw = random.Random(f"{seed} cluster")
    failovers: list[Failover] = []
    counts: Counter[str] = Counter()
    world = ClusterWorld(folder / "w", model=model, binary=binary, daemons=2)
    stop = threading.Event()
    try:
        talkers = [Talker(f"s{number:02}", seed, world.addresses) for number in range(sessions)]
        with ThreadPoolExecutor(sessions) as pool:
            talking = [pool.submit(talker.talk, stop, 0.5) for talker in talkers]
            begin = time.monotonic()
            try:
                while time.monotonic() - begin < seconds:
                    threading.Event().wait(draw.expovariate(0.5))
                    if draw.random() < 0.2:
                        counts["daemon killed"] += 1
                        daemon = draw.choice(world.daemons)
                        daemon.process.kill()
                        daemon.restart()
                    failovers.append(kill_a_primary(world, draw, begin))
                    counts["primary killed"] += 1
                    print(failovers[-1], flush=True)
            finally:
                stop.set()
            for each in talking:
                each.result()
        for probe in world.probes:
            probe.stop()
        outcome = Outcome(counts, sum((talker.counts for talker in talkers), Counter()))
        outcome.lost += sum(probe.lost for probe in world.probes)
        for talker in talkers:
            outcome.wrong += [f"{talker.name}: {what}" for what in talker.wrong]
        quiet = World(folder / "u", model=model, binary=binary, daemons=1, **UNDISTURBED)
        try:
            with Client(quiet.addresses[0]) as undisturbed, Client(world.addresses[0]) as survivor:
                for talker in talkers:
                    difference, tokens = compare(talker.name, talker.log, survivor, undisturbed)
                    outcome.tokens += tokens
                    outcome.add(talker.name, difference)
        finally:
            quiet.close()
    finally:
        world.close()
    return outcome, failovers


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    parser.add_argument("--sessions", type=int, default=16)
    parser.add_argument("--keep", action="store_true", help="keep the processes' logs")
    given = parser.parse_args()
    print(f"seed {given.seed}", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="mdc"))
    try:
        write_tiny_model(folder / "model")
        outcome, failovers = run(
            given.seconds,
            given.seed,
            sessions=given.sessions,
            folder=folder,
            model=folder / "model",
        )
    finally:
        if given.keep:
            print(f"logs in {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    print(f"{given.sessions} sessions, 2 daemons, {given.seconds:g} s, {outcome.tokens} tokens")
    for what, counts in (("acts", outcome.acts), ("faults", outcome.faults)):
        print(f"{what}: {', '.join(f'{counts[kind]} {kind}' for kind in sorted(counts))}")
    for what, times in (
        ("election", [each.elected for each in failovers if each.elected is not None]),
        ("write gap", [each.gap for each in failovers]),
        ("of it after the restart", [each.gap - each.back for each in failovers]),
    ):
        if times:
            print(f"{what}: median {median(times):.1f} s, longest {max(times):.1f} s")
    for line in outcome.wrong:
        print(f"wrong: {line}")
    print(outcome.line)
    return 0 if outcome.good else 1


if __name__ == "__main__":
    sys.exit(main())
