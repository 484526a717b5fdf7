"""Checkpoint bodies: hashes of parts, moved on a thread and a connection of their own.

One field per part of at most 512 KiB, one command per part: beside a single 10 MB SET the appends
of all other sessions would wait for it. A staged blob expires by itself from its first part on;
only a commit makes it stay. An attempt's name is never used twice, so a writer that lost its lease
cannot touch a committed blob.

A state that grows is not sent whole each time: Redis copies the blob before it to the new name, and
only the parts that differ are sent. Each blob is whole, so nothing else needs to know.
"""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import xxhash
from redis import exceptions

from memoryd.errors import StateCorrupt
from memoryd.storage.connection import Attempts
from memoryd.storage.keys import SessionKey
from memoryd.storage.nodes import SyncNodes
from memoryd.storage.records import BlobRef

PART_BYTES = 512 * 1024

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Staged:
    """A body that was put, as what the next one is compared with. digests: of each part."""

    attempt: str
    digests: tuple[bytes, ...]

    @property
    def parts(self) -> int:
        return len(self.digests)


class BlobStore:
    """Puts and gets blobs, one after the other.

    deadline: seconds for each part with all its tries. staging_ttl: seconds that a blob which is
    never committed stays; longer than the slowest put and commit.

    Every method may raise StorageUnavailable. A caller can be cancelled at any time: a transfer
    that its thread has begun runs to its end.
    """

    def __init__(
        self,
        url: str,
        *,
        socket_timeout: float = 5.0,
        deadline: float = 60.0,
        staging_ttl: float = 600.0,
    ) -> None:
        self._url = url
        self._deadline = deadline
        self._staging_seconds = round(staging_ttl)
        self._nodes = SyncNodes(url, socket_timeout=socket_timeout)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="memoryd-blobs")

    async def close(self) -> None:
        """Finish the transfers under way and close the connection."""
        await asyncio.to_thread(self._thread.shutdown)
        self._nodes.close()

    async def put(self, key: SessionKey, generation: str, attempt: str, body: bytes) -> int:
        """Stage a body under an attempt drawn for it alone; returns the number of parts.

        Raises StorageFull.
        """
        return await self._on_thread(lambda: self._put(key.blob(generation, attempt), body))

    async def put_longer(
        self,
        key: SessionKey,
        generation: str,
        attempt: str,
        body: bytes,
        grows_at: int,
        base: Staged | None,
    ) -> Staged:
        """Stage a body of which only little may differ from `base`, a committed blob's.

        grows_at: where the bytes begin that were in shorter bodies before; parts are cut from there
        anew, so that they stay the same. Raises StorageFull.
        """
        return await self._on_thread(
            lambda: self._put_longer(key, generation, attempt, body, grows_at, base)
        )

    async def get(self, key: SessionKey, generation: str, ref: BlobRef) -> bytes:
        """Read a committed body; its length is verified here, its digest by the codec.

        Raises StateCorrupt.
        """
        return await self._on_thread(lambda: self._get(key, generation, ref))

    async def discard(self, key: SessionKey, generation: str, attempt: str) -> None:
        """Drop a staged blob that will not be committed."""
        name = key.blob(generation, attempt)
        await self._on_thread(lambda: self._retry(lambda: self._nodes.at(name).unlink(name)))

    async def _on_thread(self, work: Callable[[], Answer]) -> Answer:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _put(self, name: str, body: bytes) -> int:
        return self._put_parts(name, _cut(memoryview(body)))

    def _put_parts(self, name: str, parts: list[memoryview]) -> int:
        def stage_first() -> None:
            with self._nodes.at(name).pipeline(transaction=True) as pipe:
                pipe.execute_command("HSET", name, 0, parts[0])  # type: ignore[no-untyped-call]
                pipe.expire(name, self._staging_seconds)
                pipe.execute()

        self._retry(stage_first)
        for number, part in enumerate(parts[1:], start=1):
            self._retry(partial(self._command, "HSET", name, number, part))
        return len(parts)

    def _put_longer(
        self,
        key: SessionKey,
        generation: str,
        attempt: str,
        body: bytes,
        grows_at: int,
        base: Staged | None,
    ) -> Staged:
        name, view = key.blob(generation, attempt), memoryview(body)
        parts = _cut(view[:grows_at]) + _cut(view[grows_at:])
        staged = Staged(attempt, tuple(xxhash.xxh3_128_digest(part) for part in parts))
        old = base.digests if base is not None else ()
        changed = [n for n, new in enumerate(staged.digests) if n >= len(old) or old[n] != new]
        if base is None or len(changed) == len(parts):
            self._put_parts(name, parts)
            return staged
        source = key.blob(generation, base.attempt)
        if not self._retry(partial(self._copy, source, name)):
            self._put_parts(name, parts)
            return staged
        for number in changed:
            self._retry(partial(self._command, "HSET", name, number, parts[number]))
        for number in range(len(parts), len(old)):
            self._retry(partial(self._command, "HDEL", name, number))
        return staged

    def _copy(self, source: str, name: str) -> bool:
        """Copy a blob in Redis, to expire like a staged one; False where there is none."""
        with self._nodes.at(name).pipeline(transaction=True) as pipe:
            pipe.copy(source, name, replace=True)
            pipe.expire(name, self._staging_seconds)
            return bool(pipe.execute()[0])

    def _get(self, key: SessionKey, generation: str, ref: BlobRef) -> bytes:
        name = key.blob(generation, ref.attempt)
        parts: list[bytes] = []
        for number in range(ref.parts):
            part = self._retry(partial(self._command, "HGET", name, number))
            if part is None:
                raise _corrupt(key, ref, f"part {number} of {ref.parts} is missing")
            parts.append(part)
        body = b"".join(parts)
        if len(body) != ref.nbytes:
            raise _corrupt(key, ref, f"it has {len(body)} bytes, not {ref.nbytes}")
        return body

    def _command(self, *command: Any) -> Any:
        return self._nodes.at(command[1]).execute_command(*command)  # type: ignore[no-untyped-call]

    def _retry(self, send: Callable[[], Answer]) -> Answer:
        attempts = Attempts(self._url, self._deadline)
        while True:
            try:
                return send()
            except (exceptions.RedisError, OSError) as error:
                self._nodes.note(error)
                time.sleep(attempts.failed(error))


def _cut(body: memoryview) -> list[memoryview]:
    return [body[at : at + PART_BYTES] for at in range(0, len(body), PART_BYTES)]


def _corrupt(key: SessionKey, ref: BlobRef, what: str) -> StateCorrupt:
    return StateCorrupt(
        f"The checkpoint at {ref.offset} of session {key} cannot be used, {what}: restore a "
        "snapshot or create the session anew.",
        session=key.name,
        offset=ref.offset,
    )
