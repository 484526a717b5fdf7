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
