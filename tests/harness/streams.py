"""Texts to stream, and what can be said of a session once its stream was read."""

import random

import grpc
import redis
from google.rpc import error_details_pb2, status_pb2

from harness.processes import wait_until
from memoryd.storage.keys import heartbeat_key
from memoryd_client import Client, Retry, Sampling, Session

CHUNK = 8  # of the tiny model
GREEDY = Sampling(max_tokens=24)
ENDLESS = 1_000_000
"""Tokens of a reply that its test leaves."""
AT_ONCE = Retry(give_up_after=0)
"""The first answer is the one to look at."""

WORDS = (
    *("memory", "stream", "question", "answer", "daemon", "river", "mountain", "seven", "blue"),
    *("naïve", "Straße", "ключ", "記憶", "there", "would", "always", "remember", "people"),
    *("between", "world", "never", "again"),
)


def prose(seed: int, words: int) -> str:
    """Words of one to six bytes a character, as a function of the seed."""
    draw = random.Random(seed)
    return " ".join(draw.choice(WORDS) for _ in range(words))


def absorbed(client: Client, name: str) -> Session:
    """The session once every whole chunk of its stream was read."""
    found: list[Session] = []

    def read() -> bool:
        found[:] = [client.get_session(name)]
        return found[0].absorbed_tokens == found[0].acked_tokens // CHUNK * CHUNK

    wait_until(read, f"session {name!r} is absorbed")
    return found[0]


def checkpointed(client: Client, name: str, every: int) -> Session:
    """The session once all is absorbed, and no checkpoint is being written or due.

    every: the daemon's checkpoint_tokens.
    """
    absorbed(client, name)
    found: list[Session] = []

    def at_rest() -> bool:
        found[:] = [client.get_session(name)]
        return found[0].absorbed_tokens - found[0].checkpoint_tokens < every

    wait_until(at_rest, f"session {name!r} is checkpointed")
    return found[0]


def memory(client: Client, name: str) -> tuple[int, int, str, list[int]]:
    """Offset, bytes without tokens, checksum of the state, and a greedy answer.

    Two sessions whose four are equal have read the same stream.
    """
    client.inspect(name, limit=1)  # a session that nobody holds is not being read
    session = absorbed(client, name)
    checksum = client.inspect(name, limit=1).state_checksum
    reply = client.query(name, "What do you remember?", sampling=GREEDY)
    reply.text()
    assert reply.completion.usage.memory_tokens == session.acked_tokens
    return session.acked_tokens, session.tail_bytes, checksum, reply.token_ids


def forget_heartbeat(server: redis.Redis, daemon_id: str) -> None:
    """What the passing of the heartbeat's time to live does."""
    assert server.delete(heartbeat_key(daemon_id)) == 1


def reason(error: grpc.RpcError) -> str:
    """Why a bare call was refused, by the name that the daemon gives; "" where it gave none."""
    packed = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin", b"")
    info = error_details_pb2.ErrorInfo()
    for detail in status_pb2.Status.FromString(packed).details:
        if detail.Unpack(info):
            return str(info.reason)
    return ""
