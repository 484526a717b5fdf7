"""Checkpoint bodies: hashes of parts, moved on a thread and a connection of their own.

One field per part of at most 512 KiB, one command per part: beside a single 10 MB SET the appends
of all other sessions would wait for it. A staged blob expires by itself from its first part on;
only a commit makes it stay. An attempt's name is never used twice, so a writer that lost its lease
cannot touch a committed blob.
"""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from redis import exceptions

from memoryd.errors import StateCorrupt
from memoryd.storage.connection import Attempts
from memoryd.storage.keys import SessionKey
from memoryd.storage.nodes import SyncNodes
from memoryd.storage.records import BlobRef

PART_BYTES = 512 * 1024

Answer = TypeVar("Answer")


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
        view = memoryview(body)
        parts = [view[at : at + PART_BYTES] for at in range(0, len(body), PART_BYTES)]

        def stage_first() -> None:
            with self._nodes.at(name).pipeline(transaction=True) as pipe:
                pipe.execute_command("HSET", name, 0, parts[0])  # type: ignore[no-untyped-call]
                pipe.expire(name, self._staging_seconds)
                pipe.execute()

        self._retry(stage_first)
        for number, part in enumerate(parts[1:], start=1):
            self._retry(partial(self._command, "HSET", name, number, part))
        return len(parts)

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


def _corrupt(key: SessionKey, ref: BlobRef, what: str) -> StateCorrupt:
    return StateCorrupt(
        f"The checkpoint at {ref.offset} of session {key} cannot be used, {what}: restore a "
        "snapshot or create the session anew.",
        session=key.name,
        offset=ref.offset,
    )
