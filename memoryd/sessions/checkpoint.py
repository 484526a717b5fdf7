"""Writing a session's state to Redis, so that only a short journal has to be read again.

The blob is staged under a key of its own and becomes the checkpoint by one short script, or is
freed by it; a daemon that dies in between leaves nothing but a key that expires.
"""

import asyncio
import time
import uuid

import structlog

from memoryd.engine.errors import EngineError
from memoryd.errors import StateCorrupt, StorageFull, StorageUnavailable
from memoryd.sessions.services import Services
from memoryd.storage.blobs import Staged
from memoryd.storage.codec import DIGEST_BYTES, StateHeader, body_digest, encode_state
from memoryd.storage.errors import CheckpointIncomplete, StaleCheckpoint
from memoryd.storage.records import BlobRef, SessionRecord

logger = structlog.get_logger(__name__)

RETRY_SECONDS = 5.0


class Checkpointer:
    """Checkpoints one session under one lease, one at a time."""

    def __init__(self, services: Services, record: SessionRecord, engine_key: str) -> None:
        self._services = services
        self._record = record
        self._engine_key = engine_key
        self._lock = asyncio.Lock()
        self._not_before = 0.0
        self.committed: BlobRef | None = record.blob
        self._staged: Staged | None = None

    @property
    def running(self) -> bool:
        return self._lock.locked()

    def due(self, absorbed: int) -> bool:
        """Enough was absorbed since the last checkpoint, and none is being written."""
        done = self.committed.offset if self.committed is not None else 0
        return (
            absorbed - done >= self._services.limits.checkpoint_tokens
            and not self.running
            and time.monotonic() >= self._not_before
        )

    async def finished(self) -> None:
        """Waits for a checkpoint that is being written."""
        async with self._lock:
            pass

    async def write(self) -> BlobRef | None:
        """Commits the state as absorbed so far; None where there is nothing new or it has to wait.

        Raises OwnershipLost, SessionNotFound, and JournalGap where Redis has lost writes.
        """
        async with self._lock:
            try:
                return await self._write()
            except (StorageFull, StorageUnavailable, CheckpointIncomplete) as error:
                self._not_before = time.monotonic() + RETRY_SECONDS
                self._services.metrics.checkpoint_delayed()
                logger.warning(
                    "checkpoint_delayed", session=str(self._record.key), error=str(error)
                )
            except StaleCheckpoint:
                logger.info("checkpoint_superseded", session=str(self._record.key))
            return None

    async def _write(self) -> BlobRef | None:
        services, record = self._services, self._record
        began = time.monotonic()
        try:
            captured = await services.engine.capture(self._engine_key)
        except EngineError as error:
            raise StateCorrupt(f"the state in memory cannot be stored: {error}") from error
        if captured.offset <= (self.committed.offset if self.committed is not None else 0):
            return None
        header = StateHeader(
            model=services.model_id,
            numerics=services.numerics,
            tenant=record.key.tenant,
            session=record.key.name,
            generation=record.generation,
            offset=captured.offset,
        )
        body = await asyncio.to_thread(encode_state, header, captured.arrays)
        attempt = uuid.uuid4().hex
        if captured.growing_bytes:
            grows_at = len(body) - DIGEST_BYTES - captured.growing_bytes
            staged = await services.blobs.put_longer(
                record.key, record.generation, attempt, body, grows_at, self._base()
            )
            parts = staged.parts
        else:
            staged = None
            parts = await services.blobs.put(record.key, record.generation, attempt, body)
        reference = BlobRef(attempt, captured.offset, len(body), parts, body_digest(body))
        await services.store.commit(record.lease, reference)
        self.committed, self._staged = reference, staged
        services.counters.checkpoints += 1
        services.quotas.changed(record.key)
        services.metrics.checkpointed(time.monotonic() - began, len(body))
        return reference

    def _base(self) -> Staged | None:
        """The committed body, where it was put by this object and so is known part by part."""
        if self._staged is None or self.committed is None:
            return None
        return self._staged if self._staged.attempt == self.committed.attempt else None
