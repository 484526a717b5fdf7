"""What a session costs does not grow with its stream."""

from collections.abc import Callable

import psutil
import redis
import torch

from harness.daemons import Cluster, DaemonProcess
from harness.redis_servers import RedisProcess
from harness.streams import CHUNK, absorbed, checkpointed, prose
from lalte.presets import tiny_lalte
from lalte.state import nbytes
from memoryd.storage.codec import Expectation, decode_state
from memoryd.storage.keys import SessionKey
from memoryd.storage.records import SessionRecord, parse_record
from memoryd_client import Client, Sampling, Writer

from .conftest import PAIR_CHECKPOINT_TOKENS

CHECKPOINT_TOKENS = 512
TEXT = prose(seed=5, words=1200)


def grow_to(client: Client, writer: Writer, tokens: int) -> None:
    """Appends whole documents until the session holds at least so many tokens, all absorbed.

    Then no state is being written beside the one that is stored.
    """
    while writer.append(TEXT).offset.tokens < tokens:
        absorbed(client, "s")
    checkpointed(client, "s", CHECKPOINT_TOKENS)


def stored_bytes(server: redis.Redis) -> dict[str, int]:
    """Bytes of the session's keys in Redis, by kind."""
    sizes = dict.fromkeys(("meta", "journal", "blob"), 0)
    for key in server.keys("md1:{default/s}:*"):
        sizes[key.decode().split(":")[2]] += server.memory_usage(key, samples=0)
    return sizes


def test_bytes_in_redis_and_in_memory_are_flat_from_10_000_to_60_000_tokens(
    start_redis: Callable[..., RedisProcess],
    start_daemon: Callable[..., DaemonProcess],
) -> None:
    server = start_redis()
    daemon = start_daemon(redis_url=server.url, checkpoint_tokens=CHECKPOINT_TOKENS)
    process = psutil.Process(daemon.process.pid)
    with daemon.client() as client:
        client.create_session("s")
        writer = client.writer("s")
        grow_to(client, writer, 10_000)
        resident, early = process.memory_info().rss, stored_bytes(server.raw)
        grow_to(client, writer, 60_000)
        assert process.memory_info().rss <= resident * 1.02
        late = stored_bytes(server.raw)
        assert late["meta"] + late["blob"] <= 1.02 * (early["meta"] + early["blob"])
        # The journal is what came since the checkpoint, in whole entries: here one append.
        entry_bytes = 4 * len(TEXT.encode())
        assert late["journal"] <= entry_bytes
        assert server.raw.xlen(server.raw.keys("md1:{default/s}:journal:*")[0]) <= 1


def test_what_is_stored_is_the_state_to_the_byte(pair: Cluster, name: str) -> None:
    pair.on_a.create_session(name)
    stored = 0
    for seed in range(2):
        pair.on_a.append(name, prose(seed, words=75))
        checkpointed(pair.on_a, name, PAIR_CHECKPOINT_TOKENS)
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
        assert header.offset > stored
        stored = header.offset
        assert stored % CHUNK == 0


def stored_checkpoint(server: redis.Redis, key: SessionKey) -> tuple[SessionRecord, bytes]:
    """The session as Redis has it, and the body of its checkpoint."""
    record = parse_record(key, server.hgetall(key.meta))
    assert record.blob is not None
    parts = server.hgetall(key.blob(record.generation, record.blob.attempt))
    return record, b"".join(parts[b"%d" % number] for number in range(record.blob.parts))


def test_questions_of_every_length_fill_no_memory(
    start_daemon: Callable[..., DaemonProcess],
) -> None:
    daemon = start_daemon()
    process = psutil.Process(daemon.process.pid)
    one_token = Sampling(max_tokens=1)
    with daemon.client() as client:
        client.create_session("s")
        client.append("s", "A river.")
        client.query("s", "x", sampling=one_token).text()
        before = process.memory_info().rss
        for length in range(1, 200):
            client.query("s", "x" * length, raw=True, sampling=one_token).text()
        # Without a bound on compiled products it is more than 700 MB.
        assert process.memory_info().rss - before < 300 << 20
