"""Blobs come back as they were put, or not at all."""

import asyncio
import dataclasses

import pytest

from memoryd.errors import StateCorrupt, StorageUnavailable
from memoryd.storage.blobs import PART_BYTES, BlobStore
from memoryd.storage.codec import body_digest
from memoryd.storage.records import BlobRef


def reference(body: bytes, parts: int) -> BlobRef:
    return BlobRef("attempt", 8, len(body), parts, body_digest(body))


@pytest.mark.parametrize("size", [1, PART_BYTES - 1, PART_BYTES, PART_BYTES + 1, 3_000_000])
async def test_a_blob_reads_back_whole_and_in_parts_of_bounded_size(server, blobs, key, size):
    body = bytes(i % 251 for i in range(size))
    parts = await blobs.put(key, "g", "attempt", body)
    assert parts == -(-size // PART_BYTES)
    assert await blobs.get(key, "g", reference(body, parts)) == body
    stored = server.raw.hgetall(key.blob("g", "attempt"))
    assert max(len(part) for part in stored.values()) <= PART_BYTES


async def test_a_blob_with_a_missing_or_shorter_part_is_refused(server, blobs, key):
    body = b"x" * 1_200_000
    ref = reference(body, await blobs.put(key, "g", "attempt", body))
    name = key.blob("g", "attempt")
    server.raw.hset(name, 1, b"short")
    with pytest.raises(StateCorrupt, match="bytes"):
        await blobs.get(key, "g", ref)
    server.raw.hdel(name, 1)
    with pytest.raises(StateCorrupt, match="part 1 of 3"):
        await blobs.get(key, "g", ref)
    with pytest.raises(StateCorrupt):
        await blobs.get(key, "another generation", ref)


async def test_more_parts_than_bytes_warrant_are_refused(blobs, key):
    body = b"x" * 100
    ref = reference(body, await blobs.put(key, "g", "attempt", body))
    with pytest.raises(StateCorrupt):
        await blobs.get(key, "g", dataclasses.replace(ref, parts=2))


async def test_a_discarded_blob_is_gone(server, blobs, key):
    await blobs.put(key, "g", "attempt", b"x")
    await blobs.discard(key, "g", "attempt")
    assert server.raw.exists(key.blob("g", "attempt")) == 0


async def test_a_cancelled_put_ends_by_itself_and_the_next_one_works(server, blobs, key):
    body = b"x" * 4_000_000
    put = asyncio.create_task(blobs.put(key, "g", "first", body))
    await asyncio.sleep(0)
    put.cancel()
    with pytest.raises(asyncio.CancelledError):
        await put
    parts = await blobs.put(key, "g", "attempt", body)
    assert server.raw.hlen(key.blob("g", "first")) == parts
    assert await blobs.get(key, "g", reference(body, parts)) == body


async def test_an_absent_server_is_unavailable(tmp_path, key):
    blobs = BlobStore(f"unix://{tmp_path}/nothing", deadline=0.1)
    with pytest.raises(StorageUnavailable):
        await blobs.put(key, "g", "attempt", b"x")
    await blobs.close()


HEAD = b"h" * 700_000  # two parts that differ from blob to blob


def growing_body(tokens: int, head: bytes = HEAD) -> bytes:
    """A head, and 1,000 bytes for each of so many tokens."""
    rows = b"".join(token.to_bytes(4, "little") * 250 for token in range(tokens))
    return head + rows + b"digest at the end"


async def put_longer(blobs, key, attempt, body, base=None):
    return await blobs.put_longer(key, "g", attempt, body, len(HEAD), base)


async def sent(server, write) -> int:
    """Bytes that Redis received while `write` ran."""
    before = server.raw.info("stats")["total_net_input_bytes"]
    await write
    return server.raw.info("stats")["total_net_input_bytes"] - before


async def test_only_what_is_new_of_a_longer_body_is_sent(server, blobs, key):
    first, second = growing_body(5_000), growing_body(5_100, b"H" * len(HEAD))
    base = await put_longer(blobs, key, "first", first)
    received = await sent(server, put_longer(blobs, key, "second", second, base))
    # The head, and the part that was not full yet.
    assert received < len(HEAD) + 2 * PART_BYTES
    ref = dataclasses.replace(reference(second, 0), attempt="second")
    ref = dataclasses.replace(ref, parts=server.raw.hlen(key.blob("g", "second")))
    assert await blobs.get(key, "g", ref) == second
    staged = await put_longer(blobs, key, "again", second, base)
    assert staged.parts == ref.parts
    # The one before it is whole still, and a copy expires like any blob that is not committed.
    before = dataclasses.replace(reference(first, base.parts), attempt="first")
    assert await blobs.get(key, "g", before) == first
    assert 0 < server.raw.ttl(key.blob("g", "second")) <= 600


@pytest.mark.parametrize("tokens", [0, 10, 700, 5_000])
async def test_a_shorter_body_or_an_equal_one_may_follow(server, blobs, key, tokens):
    base = await put_longer(blobs, key, "first", growing_body(5_000))
    body = growing_body(tokens)
    staged = await put_longer(blobs, key, "second", body, base)
    assert server.raw.hlen(key.blob("g", "second")) == staged.parts
    ref = dataclasses.replace(reference(body, staged.parts), attempt="second")
    assert await blobs.get(key, "g", ref) == body


async def test_a_base_that_is_gone_costs_a_whole_transfer_and_no_more(server, blobs, key):
    base = await put_longer(blobs, key, "first", growing_body(2_000))
    await blobs.discard(key, "g", "first")
    body = growing_body(2_100)
    staged = await put_longer(blobs, key, "second", body, base)
    ref = dataclasses.replace(reference(body, staged.parts), attempt="second")
    assert await blobs.get(key, "g", ref) == body
    assert server.raw.ttl(key.blob("g", "second")) > 0
