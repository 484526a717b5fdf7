"""What a Redis or Valkey server must be before a session is put on it."""

from collections.abc import Mapping, Sequence
from typing import Any

import structlog

from memoryd.errors import StorageUnavailable
from memoryd.storage.client import Client
from memoryd.storage.errors import UnsuitableServer
from memoryd.storage.topology import describe

MIN_REDIS = (7, 0)
MIN_VALKEY = (8, 0)
"""The first versions with script flags (`allow-oom`), and the oldest that we test."""

REPLICA_SECONDS = 1.0
"""How long a replica may take to answer at start-up before it counts as away."""

log = structlog.get_logger(__name__)


def check_server(info: Mapping[str, Any], server: str, *, clustered: bool = False) -> None:
    """Read INFO and raise UnsuitableServer with a sentence on what to change.

    server: the address, for the sentence. clustered: whether it is to be a cluster's node.
    """
    for field, name, least in (
        ("valkey_version", "Valkey", MIN_VALKEY),
        ("redis_version", "Redis", MIN_REDIS),
    ):
        if field in info and _version(str(info[field])) < least:
            raise UnsuitableServer(
                f"The server at {server} is {name} {info[field]}: use Redis >= 7.0 or "
                "Valkey >= 8.0.",
                server=server,
                version=info[field],
            )
    if int(info.get("cluster_enabled", 0)) and not clustered:
        raise UnsuitableServer(
            f"The server at {server} is a cluster's node: write redis-cluster:// in its URL in "
            "place of redis://.",
            server=server,
        )
    if info.get("role") == "slave" and not clustered:
        raise UnsuitableServer(
            f"The server at {server} is a replica: give the primary's address.", server=server
        )
    policy = info.get("maxmemory_policy")
    if int(info.get("maxmemory", 0)) and policy != "noeviction":
        raise UnsuitableServer(
            f"The server at {server} evicts keys when it is full (maxmemory-policy {policy}), "
            "which would drop whole sessions: set maxmemory-policy to noeviction.",
            server=server,
            policy=policy,
        )


async def check_replicas(client: Client, replicas: Sequence[str]) -> None:
    """Check a cluster's replicas, of which each may become a primary at any time.

    One that does not answer is logged: a daemon must be able to start while a node is down.
    Raises UnsuitableServer.
    """
    for server in replicas:
        try:
            info = await client.ask(server, "INFO", "everything", deadline=REPLICA_SECONDS)
        except UnsuitableServer:
            raise
        except StorageUnavailable as error:
            log.warning("storage.replica_away", server=describe(server), error=str(error))
        else:
            check_server(info, describe(server), clustered=True)


async def warn_about_durability(client: Client, server: str, info: Mapping[str, Any]) -> None:
    """Log where the server at the URL `server` visibly keeps less than the durability promises.

    A warning and not a refusal: managed servers hide their settings and may keep more than they
    show.
    """
    durability = client.durability
    if durability == "replicated" and not int(info.get("connected_slaves", 0)):
        log.warning(
            "storage.no_replica",
            server=describe(server),
            advice="connect a replica: no write can be acked",
        )
    if not int(info.get("aof_enabled", 0)):
        log.warning(
            "storage.no_append_only_file",
            server=describe(server),
            durability=durability,
            advice="set appendonly yes, or acknowledged appends are lost with the server",
        )
    if durability != "everysec":
        # Under "replicated" too: a primary that is back before its replica was elected leads on
        # with what its own file holds, and the replica forgets what that lacks.
        try:
            answer = await client.ask(server, "CONFIG GET", "appendfsync")
            policy = answer["appendfsync"]
        except StorageUnavailable:
            log.warning("storage.durability_unknown", advice="CONFIG GET appendfsync is refused")
            return
        if policy != "always":
            log.warning(
                "storage.weaker_durability",
                server=describe(server),
                stated=durability,
                appendfsync=policy,
                advice="set appendfsync always: the stated durability rests on it",
            )


def _version(text: str) -> tuple[int, ...]:
    """(major, minor) of a version such as 7.0.15."""
    return tuple(int(part) for part in text.split(".")[:2])
