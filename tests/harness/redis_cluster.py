"""A Redis or Valkey Cluster of three primaries and three replicas on loopback."""

import random
import socket
from contextlib import suppress
from pathlib import Path

import redis

from harness.certificates import Authority
from harness.processes import ChildProcess, wait_until
from harness.redis_servers import raw_client

SHARDS = 3
SLOTS = 16384
NODE_TIMEOUT_MS = 1000
PORTS = range(10_000, 32_000)
"""Below those that the system gives to whoever asks for any: it would give one away that belongs to
a server which is down for a moment, or not up yet."""
ERRORS = (redis.ConnectionError, redis.TimeoutError, redis.exceptions.BusyLoadingError)


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    found: list[int] = []
    for port in random.sample(PORTS, len(PORTS)):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == count:
            break
    return found


class ClusterNode(ChildProcess):
    """One node; started again on the same folder and port it is the same node."""

    def __init__(
        self, folder: Path, binary: str, port: int, bus_port: int, **settings: str
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.binary = folder, binary
        self.port, self.bus_port, self.settings = port, bus_port, settings
        options = {
            "port": str(port),
            "bind": "127.0.0.1",
            "cluster-enabled": "yes",
            "cluster-port": str(bus_port),
            "cluster-node-timeout": str(NODE_TIMEOUT_MS),
            "cluster-replica-validity-factor": "0",
            "repl-diskless-sync-delay": "0",
            "dir": str(folder),
            "save": "",
            "appendonly": "yes",
            # A killed process loses nothing that it has written; a disk that hangs for a second
            # would be taken for a dead node.
            "appendfsync": "no",
            **settings,
        }
        command = [binary]
        for name, value in options.items():
            command += [f"--{name.replace('_', '-')}", value]
        super().__init__(command, {}, folder / "server.log")
        self.raw = raw_client(port=port, socket_timeout=2.0)

    @property
    def client_port(self) -> int:
        """Where clients of the cluster find it: the TLS port where it has one."""
        return int(self.settings.get("tls-port", self.port))

    def answers(self) -> bool:
        try:
            return bool(self.raw.ping())
        except ERRORS:
            return False

    def role(self) -> str:
        """ "master" or "slave"; "" while it does not answer."""
        try:
            return self.raw.execute_command("ROLE")[0].decode()
        except ERRORS:
            return ""

    def kill(self) -> None:
        super().kill()
        self.raw.close()

    def restarted(self) -> "ClusterNode":
        return ClusterNode(self.folder, self.binary, self.port, self.bus_port, **self.settings)


def cluster_info(node: ClusterNode) -> dict[str, str]:
    lines = node.raw.execute_command("CLUSTER", "INFO").decode().splitlines()
    return dict(line.split(":", 1) for line in lines)


class RedisCluster:
    """Six nodes; `node[i]` and `node[i + 3]` begin as primary and replica of shard i.

    authority: has the nodes speak TLS to each other and to clients of `url`, who must show a
    certificate that it signed; `raw` of a node is plain text still.
    """

    def __init__(
        self, folder: Path, binary: str, *, authority: Authority | None = None, **settings: str
    ) -> None:
        ports = iter(free_ports(6 * SHARDS))
        self.nodes = []
        for number in range(2 * SHARDS):
            port, bus, tls_port = next(ports), next(ports), next(ports)
            if authority is not None:
                files = authority.issue(f"node{number}")
                settings |= {
                    "tls-port": str(tls_port),
                    "tls-cluster": "yes",
                    "tls-replication": "yes",
                    "tls-ca-cert-file": str(authority.path),
                    "tls-cert-file": str(files.cert),
                    "tls-key-file": str(files.key),
                }
            self.nodes.append(ClusterNode(folder / str(number), binary, port, bus, **settings))
        addresses = ",".join(f"127.0.0.1:{node.client_port}" for node in self.nodes)
        self.url = f"redis{'s' if authority is not None else ''}-cluster://{addresses}"
        try:
            for node in self.nodes:
                wait_until(node.answers, f"node {node.port} answers")
            self._join()
        except BaseException:
            self.kill()
            raise

    def _join(self) -> None:
        first = self.nodes[0]
        for number, node in enumerate(self.nodes):
            if number < SHARDS:
                low, high = number * SLOTS // SHARDS, (number + 1) * SLOTS // SHARDS - 1
                node.raw.execute_command("CLUSTER", "ADDSLOTSRANGE", low, high)
            # Epochs of their own from the start: nodes that have to settle them refuse writes.
            node.raw.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            if node is not first:
                meet = ("CLUSTER", "MEET", "127.0.0.1", first.client_port, first.bus_port)
                node.raw.execute_command(*meet)
        for node in self.nodes:
            wait_until(
                lambda node=node: self._knows_all(node), f"node {node.port} knows the others"
            )
        for primary, replica in zip(self.nodes[:SHARDS], self.nodes[SHARDS:], strict=True):
            identity = primary.raw.execute_command("CLUSTER", "MYID")
            replica.raw.execute_command("CLUSTER", "REPLICATE", identity)
        wait_until(self.healthy, "all replicas are in step")

    def _knows_all(self, node: ClusterNode) -> bool:
        return cluster_info(node)["cluster_known_nodes"] == str(2 * SHARDS)

    def healthy(self) -> bool:
        """Every slot is served, all agree by whom, and every primary has a replica in step."""
        try:
            states = [cluster_info(node)["cluster_state"] for node in self.nodes]
            roles = [node.raw.execute_command("ROLE") for node in self.nodes]
            maps = [node.raw.execute_command("CLUSTER", "SLOTS") for node in self.nodes]
        except ERRORS:
            return False
        primaries = [role for role in roles if role[0] == b"master"]
        in_step = [role for role in roles if role[0] == b"slave" and role[3] == b"connected"]
        served = {
            frozenset((first, last, primary[1]) for first, last, primary, *_ in slots)
            for slots in maps
        }
        return (
            set(states) == {"ok"}
            and len(served) == 1
            and len(primaries) == len(in_step) == SHARDS
            and all(len(role[2]) == 1 for role in primaries)
        )

    def primaries(self) -> list[ClusterNode]:
        return [node for node in self.nodes if node.alive and node.role() == "master"]

    def holder(self, key: str) -> ClusterNode:
        """The primary that serves a key, by the word of the nodes that answer."""
        for node in self.nodes:
            with suppress(*ERRORS):
                slot = node.raw.execute_command("CLUSTER", "KEYSLOT", key)
                for first, last, primary, *_ in node.raw.execute_command("CLUSTER", "SLOTS"):
                    if first <= slot <= last:
                        return next(one for one in self.nodes if one.port == primary[1])
        raise AssertionError("no node answers")

    def restart(self, node: ClusterNode) -> ClusterNode:
        """Start a killed node again in its place."""
        new = node.restarted()
        self.nodes[self.nodes.index(node)] = new
        return new

    def kill(self) -> None:
        for node in self.nodes:
            node.kill()
