"""What a Redis or Valkey server must be before a session is put on it."""

from collections.abc import Mapping
from typing import Any

import structlog

from memoryd.errors import StorageUnavailable
from memoryd.storage.client import Client
from memoryd.storage.errors import UnsuitableServer

MIN_REDIS = (7, 0)
MIN_VALKEY = (8, 0)
"""The first versions with script flags (`allow-oom`), and the oldest that we test."""

log = structlog.get_logger(__name__)


def check_server(info: Mapping[str, Any], server: str) -> None:
    """Read INFO and raise UnsuitableServer with a sentence on what to change.

    server: the address, for the sentence.
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
    if info.get("redis_mode") == "cluster":
        raise UnsuitableServer(
            f"The server at {server} is a cluster node, which this version does not speak to: "
            "use a stand-alone server.",
            server=server,
        )
    if info.get("role") == "slave":
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


async def warn_about_durability(client: Client, info: Mapping[str, Any]) -> None:
    """Log where the server visibly keeps less than the stated durability promises.

    A warning and not a refusal: managed servers hide their settings and may keep more than they
    show.
    """
    durability = client.durability
    if durability == "replicated":
        if not int(info.get("connected_slaves", 0)):
            log.warning("storage.no_replica", advice="connect a replica: no write can be acked")
        return
    if not int(info.get("aof_enabled", 0)):
        log.warning(
            "storage.no_append_only_file",
            durability=durability,
            advice="set appendonly yes, or acknowledged appends are lost with the server",
        )
    if durability == "always":
        try:
            policy = (await client.command("CONFIG GET", "appendfsync"))["appendfsync"]
        except StorageUnavailable:
            log.warning("storage.durability_unknown", advice="CONFIG GET appendfsync is refused")
            return
        if policy != "always":
            log.warning(
                "storage.weaker_durability",
                stated=durability,
                appendfsync=policy,
                advice="set appendfsync always, or state durability everysec",
            )


def _version(text: str) -> tuple[int, ...]:
    """(major, minor) of a version such as 7.0.15."""
    return tuple(int(part) for part in text.split(".")[:2])
