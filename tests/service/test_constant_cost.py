"""What a session costs does not grow with its stream."""

from collections.abc import Callable

import psutil
import redis
import torch
from harness.daemons import Cluster, DaemonProcess
from harness.processes import wait_until
from harness.redis_servers import RedisProcess
from harness.streams import CHUNK, absorbed, prose
from lalte.presets import tiny_lalte
from lalte.state import nbytes
from memoryd.storage.codec import Expectation, decode_state
from memoryd.storage.keys import SessionKey
from memoryd.storage.records import SessionRecord, parse_record
from memoryd_client import Client

CHECKPOINT_TOKENS = 512
TEXT = prose(seed=5, words=1200)


def grow_to(client: Client, tokens: int) -> None:
    """Streams whole documents until the session holds at least so many tokens, all absorbed."""
    while client.append("s", TEXT).offset.tokens < tokens:
        absorbed(client, "s")
    absorbed(client, "s")


def stored_bytes(server: redis.Redis) -> int:
    """Bytes of all keys of the session in Redis."""
    return sum(server.memory_usage(key, samples=0) for key in server.keys("md1:{default/s}:*"))


def test_bytes_in_redis_and_in_memory_are_flat_from_10_000_to_60_000_tokens(
    start_redis: Callable[..., RedisProcess],
    start_daemon: Callable[..., DaemonProcess],
) -> None:
    server = start_redis(appendfsync="no")
    daemon = start_daemon(redis_url=server.url, checkpoint_tokens=CHECKPOINT_TOKENS)
    process = psutil.Process(daemon.process.pid)
    with daemon.client() as client:
        client.create_session("s")
        grow_to(client, 10_000)
        resident, stored = process.memory_info().rss, stored_bytes(server.raw)
        grow_to(client, 60_000)
        assert process.memory_info().rss <= resident * 1.02
        # Beside the checkpoint stands the journal behind it, which its own bound keeps small.
        journal = CHECKPOINT_TOKENS * 16
        assert abs(stored_bytes(server.raw) - stored) <= journal + stored * 0.02


def test_what_is_stored_is_the_state_to_the_byte(pair: Cluster, name: str) -> None:
    pair.on_a.create_session(name)
    for words in (20, 300):
        pair.on_a.append(name, prose(seed=words, words=words))
        absorbed(pair.on_a, name)
        wait_until(lambda: pair.on_a.get_session(name).checkpoint_tokens > 0, "the state is stored")
        record, body = stored_checkpoint(pair.redis.raw, SessionKey("default", name))
        assert record.blob is not None
        header, arrays = decode_state(
            body,
            expect=Expectation(
                model=record.model,
                tenant="default",
                session=name,
                generation=record.generation,
                offset=record.blob.offset,
                digest=record.blob.digest,
            ),
        )
        state_bytes = sum(memoryview(array.data).nbytes for array in arrays.values())
        assert state_bytes == nbytes(tiny_lalte(), torch.bfloat16)
        assert state_bytes == pair.on_a.get_model().state_bytes
        assert header.offset % CHUNK == 0


def stored_checkpoint(server: redis.Redis, key: SessionKey) -> tuple[SessionRecord, bytes]:
    """The session as Redis has it, and the body of its checkpoint."""
    record = parse_record(key, server.hgetall(key.meta))
    assert record.blob is not None
    parts = server.hgetall(key.blob(record.generation, record.blob.attempt))
    return record, b"".join(parts[b"%d" % number] for number in range(record.blob.parts))
