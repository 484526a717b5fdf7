"""Finds the owner of a session, or becomes it.

A session is opened at most once here: callers that arrive while it is being opened wait for the
same work, and work goes on when they leave. Where memory is full, the session that was used least
recently is written back and released.
"""

import asyncio
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import structlog

from memoryd.engine.errors import NoFreeSlot, StateRefused, TokenOutOfRange
from memoryd.errors import (
    Draining,
    MemorydError,
    ModelMismatch,
    OwnershipLost,
    SessionMigrating,
    SessionNotFound,
    SlotsBusy,
    StateCorrupt,
)
from memoryd.sessions.actor import SessionActor
from memoryd.sessions.archive import RecentFrames, frames
from memoryd.sessions.log import journalled
from memoryd.sessions.recent import RecentTokens
from memoryd.sessions.services import Services
from memoryd.storage.codec import Array, Expectation, decode_state
from memoryd.storage.keys import SessionKey
from memoryd.storage.records import BlobRef, SessionRecord

logger = structlog.get_logger(__name__)

ACQUIRE_ATTEMPTS = 5
SLOT_RETRY_SECONDS = 1.0


@dataclass(frozen=True)
class Remote:
    """The session belongs to a living daemon at `address`."""

    address: str


@dataclass
class Taken:
    """A session that is owned without being in memory. unfinished: work that holds it still."""

    record: SessionRecord = field(init=False)
    unfinished: list["asyncio.Future[Any]"] = field(default_factory=list)


class SessionManager:
    """All sessions that this daemon owns."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self.draining = False
        self._actors: dict[SessionKey, SessionActor] = {}
        self._opening: dict[SessionKey, asyncio.Task[SessionActor | Remote | None]] = {}
        self._taken: set[SessionKey] = set()

    @property
    def actors(self) -> tuple[SessionActor, ...]:
        return tuple(self._actors.values())

    def loaded(self, key: SessionKey) -> SessionActor | None:
        """The session's actor if it is in memory and takes calls."""
        actor = self._actors.get(key)
        return actor if actor is not None and actor.live else None

    async def locate(self, key: SessionKey) -> SessionActor | Remote:
        """The session's actor, opened if need be, or the daemon that owns it.

        A caller that goes on without awaiting may use the actor at once. Raises SessionNotFound,
        ModelMismatch, StateCorrupt, SlotsBusy, StorageUnavailable, Draining.
        """
        while True:
            if (actor := self.loaded(key)) is not None:
                return actor
            self._refuse_taken(key)
            if self.draining:
                raise Draining("this daemon is shutting down; retry at another one")
            task = self._opening.get(key)
            if task is None:
                task = asyncio.ensure_future(self._open(key))
                self._opening[key] = task
                task.add_done_callback(lambda _: self._opening.pop(key, None))
            found = await asyncio.shield(task)
            if isinstance(found, Remote) or (found is not None and found.live):
                return found

    async def owner_address(self, record: SessionRecord) -> str | None:
        """Where the session's owner is reached; None if it is this daemon, nobody, or gone.

        A heartbeat outlives its daemon by some seconds. One that listened at this daemon's own
        address, or used this daemon's own server, is gone whatever its heartbeat says.
        """
        services = self.services
        if not services.shared or record.owner in ("", services.daemon_id):
            return None
        address = await services.store.heartbeat_alive(record.owner)
        return None if address == services.address else address

    async def record(self, key: SessionKey) -> SessionRecord:
        """The session as it stands in Redis. Raises SessionNotFound."""
        record = await self.services.store.read(key)
        if record is None:
            raise SessionNotFound(f"there is no session {key.name!r}", session=key.name)
        return record

    async def replace(
        self, key: SessionKey, work: Callable[[SessionRecord], Awaitable[SessionRecord]]
    ) -> SessionRecord | Remote:
        """Drops the session from memory and does `work` on its record; gives what `work` gives.

        Nothing is written back: `work` puts something else in the session's place, or nothing.
        Callers that arrive meanwhile wait, and open what is there then. Where another daemon owns
        the session, nothing is done. Raises SessionNotFound, Draining, and what `work` raises.
        """
        while (opening := self._opening.get(key)) is not None:
            await asyncio.wait([opening])
        self._refuse_taken(key)
        if self.draining:
            raise Draining("this daemon is shutting down; retry at another one")
        task = asyncio.ensure_future(self._replace(key, work))
        gate = asyncio.ensure_future(_ended(task))
        self._opening[key] = gate
        gate.add_done_callback(lambda _: self._opening.pop(key, None))
        return await asyncio.shield(task)

    async def _replace(
        self, key: SessionKey, work: Callable[[SessionRecord], Awaitable[SessionRecord]]
    ) -> SessionRecord | Remote:
        if (actor := self._actors.get(key)) is not None:
            await actor.stop(checkpoint=False, release=False)
        record = await self.record(key)
        if (address := await self.owner_address(record)) is not None:
            return Remote(address)
        return await work(record)

    @asynccontextmanager
    async def taken(self, record: SessionRecord) -> AsyncGenerator[Taken]:
        """Owns a session without reading it to memory; calls on it are refused meanwhile.

        Raises SessionMigrating where that is so already, OwnershipLost where a living daemon holds
        the session or was faster.
        """
        key, services = record.key, self.services
        self._refuse_taken(key)
        if (address := await self.owner_address(record)) is not None:
            raise OwnershipLost(
                f"session {key.name!r} is held by the daemon at {address}: drain that one, or "
                "migrate to a new name",
                session=key.name,
            )
        self._refuse_taken(key)
        self._taken.add(key)
        acquiring = asyncio.ensure_future(
            services.store.acquire(
                key,
                expected_owner=record.owner,
                expected_epoch=record.epoch,
                me=services.daemon_id,
            )
        )
        taken = Taken()
        try:
            acquired = await asyncio.shield(acquiring)
            if acquired is None:
                raise OwnershipLost(
                    f"session {key.name!r} changes hands; retry", retry_after=SLOT_RETRY_SECONDS
                )
            taken.record = acquired
            yield taken
        finally:
            giving_back = asyncio.ensure_future(self._give_back(key, acquiring, taken))
            await asyncio.shield(giving_back)

    async def _give_back(
        self, key: SessionKey, acquiring: "asyncio.Future[SessionRecord | None]", taken: Taken
    ) -> None:
        try:
            await asyncio.wait([acquiring, *taken.unfinished])
            if (acquired := acquiring.result()) is not None:
                await self.services.store.release(acquired.lease)
        except MemorydError as error:
            logger.warning("session_not_given_back", session=str(key), error=str(error))
        finally:
            self._taken.discard(key)

    def _refuse_taken(self, key: SessionKey) -> None:
        if key in self._taken:
            raise SessionMigrating(
                f"session {key.name!r} is being read again for another model; retry when that is "
                "done",
                retry_after=SLOT_RETRY_SECONDS,
                session=key.name,
            )

    def check_model(self, model: str, name: str, *, archived: bool = False) -> None:
        """Raises ModelMismatch for a session of another model."""
        if model != self.services.model_id:
            way_out = f", or migrate it: memoryd session migrate {name}" if archived else ""
            raise ModelMismatch(
                f"session {name!r} was made by model {model}, this daemon serves "
                f"{self.services.model_id}: serve it with the model that made it{way_out}",
                session_model=model,
                model=self.services.model_id,
                archived=archived,
            )

    async def try_state(self, offset: int, arrays: Mapping[str, Array]) -> None:
        """Opens a state in a slot of its own and drops it. Raises StateCorrupt, SlotsBusy."""
        engine_key = f"trial#{uuid.uuid4().hex}"
        await self.open_slot(
            engine_key, offset, arrays, on_absorbed=lambda _: None, on_failed=lambda _: None
        )
        await self.services.engine.close(engine_key)

    async def drain(self) -> int:
        """Writes back and releases every session; new calls are refused. Gives their number."""
        self.draining = True
        if self._opening:
            await asyncio.gather(*self._opening.values(), return_exceptions=True)
        actors = self.actors
        await asyncio.gather(*(actor.stop(checkpoint=True, release=True) for actor in actors))
        return len(actors)

    def close_abandoned_turns(self) -> None:
        for actor in self.actors:
            actor.close_abandoned_turn()

    async def _open(self, key: SessionKey) -> SessionActor | Remote:
        if (leaving := self._actors.get(key)) is not None:
            await leaving.ended.wait()
        services = self.services
        for _ in range(ACQUIRE_ATTEMPTS):
            record = await self.record(key)
            if (address := await self.owner_address(record)) is not None:
                return Remote(address)
            self.check_model(record.model, key.name, archived=record.archive)
            acquired = await services.store.acquire(
                key,
                expected_owner=record.owner,
                expected_epoch=record.epoch,
                me=services.daemon_id,
            )
            if acquired is not None:
                services.metrics.lease("taken_over" if record.owner else "acquired")
                return await self._load(acquired)
        raise OwnershipLost(
            f"session {key.name!r} changes hands too fast; retry", retry_after=SLOT_RETRY_SECONDS
        )

    async def _load(self, record: SessionRecord) -> SessionActor:
        try:
            actor = await self._bring_to_memory(record)
        except MemorydError:
            await self.services.store.release(record.lease)
            raise
        self._actors[record.key] = actor
        actor.start()
        logger.info(
            "session_opened",
            session=str(record.key),
            epoch=record.epoch,
            offset=record.next,
            checkpoint=record.blob.offset if record.blob else 0,
        )
        return actor

    async def _bring_to_memory(self, record: SessionRecord) -> SessionActor:
        offset, arrays = await self.read_checkpoint(record, record.blob)
        tokens = await self._read_journal(record, offset)
        # The lease's epoch is in the key: no slot outlives the ownership it was filled under.
        engine_key = f"{record.key}#{record.generation}#{record.epoch}"
        recent = RecentTokens(offset)
        recent.extend(tokens)
        actor = SessionActor(
            record,
            self.services,
            engine_key=engine_key,
            absorbed=offset,
            recent=recent,
            frames=await self._recent_frames(record, offset),
            on_end=self._on_end,
        )
        await self.open_slot(
            engine_key,
            offset,
            arrays,
            tenant=record.key.tenant,
            on_absorbed=actor.on_absorbed,
            on_failed=actor.on_failed,
        )
        try:
            self.services.engine.feed(engine_key, tokens)
        except TokenOutOfRange as error:
            await self.services.engine.close(engine_key)
            raise StateCorrupt(
                f"the journal of session {record.key.name!r} was refused: {error}", offset=offset
            ) from error
        return actor

    async def read_checkpoint(
        self, record: SessionRecord, blob: BlobRef | None
    ) -> tuple[int, Mapping[str, Array] | None]:
        """The offset and state of a session's checkpoint. Raises StateCorrupt, ModelMismatch."""
        services = self.services
        if blob is None:
            return 0, None
        body = await services.blobs.get(record.key, record.generation, blob)
        header, arrays = await asyncio.to_thread(
            decode_state,
            body,
            expect=Expectation(
                model=services.model_id,
                tenant=record.key.tenant,
                session=record.key.name,
                generation=record.generation,
                offset=blob.offset,
                digest=blob.digest,
            ),
        )
        if header.numerics != services.numerics:
            logger.warning(
                "numerics_changed",
                session=str(record.key),
                stored=header.numerics,
                here=services.numerics,
            )
        return blob.offset, arrays

    async def _read_journal(self, record: SessionRecord, after: int) -> list[int]:
        """Tokens [after, next) of the journal; refuses one that has a hole."""
        tokens = journalled(await self.services.store.read_journal(record.lease, after), after)
        end = after + len(tokens)
        if end != record.next:
            raise StateCorrupt(
                f"the journal of session {record.key.name!r} has no entry at token {end}, "
                f"but {record.next} tokens were acknowledged",
                offset=end,
                acknowledged=record.next,
            )
        return tokens

    async def _recent_frames(self, record: SessionRecord, after: int) -> RecentFrames:
        """The archive's frames that lead to token `after` or beyond; refuses one with a hole."""
        recent = RecentFrames(record.archived)
        if not record.archived:
            return recent
        async for end, data in self.services.store.archives.read_back(
            record.key, record.generation
        ):
            if end != recent.start:
                break
            found = list(frames(data))
            for frame, packed in reversed(found):
                recent.extend_back(frame.next, packed)
            if found[0][0].next < after:
                break
        if recent.start == recent.end:
            raise StateCorrupt(
                f"the archive of session {record.key.name!r} does not end at byte "
                f"{record.archived}, where it was acknowledged",
                archived=record.archived,
            )
        return recent

    async def open_slot(
        self,
        engine_key: str,
        offset: int,
        arrays: Mapping[str, Array] | None,
        *,
        tenant: str = "",
        background: bool = False,
        on_absorbed: Callable[[int], None],
        on_failed: Callable[[str], None],
    ) -> None:
        """As `Engine.open`, making room where no slot is free. Raises SlotsBusy, StateCorrupt."""
        while True:
            try:
                await self.services.engine.open(
                    engine_key,
                    tenant=tenant,
                    offset=offset,
                    arrays=arrays,
                    background=background,
                    on_absorbed=on_absorbed,
                    on_failed=on_failed,
                )
            except NoFreeSlot as error:
                await self._make_room(error)
            except StateRefused as error:
                raise StateCorrupt(
                    f"the checkpoint at token {offset} was refused: {error.reason}", offset=offset
                ) from error
            else:
                return

    async def _make_room(self, full: NoFreeSlot) -> None:
        """Writes back the least recently used idle session. Raises SlotsBusy if none is idle."""
        idle = [actor for actor in self._actors.values() if actor.live and actor.idle]
        if not idle:
            raise SlotsBusy(
                f"all {full.slots} slots are in use; retry",
                retry_after=SLOT_RETRY_SECONDS,
                slots=full.slots,
            )
        oldest = min(idle, key=lambda actor: actor.last_used)
        await oldest.stop(checkpoint=True, release=True)

    def _on_end(self, actor: SessionActor) -> None:
        if self._actors.get(actor.record.key) is actor:
            del self._actors[actor.record.key]


async def _ended(task: "asyncio.Task[Any]") -> None:
    """Waits for work whose outcome is for somebody else."""
    await asyncio.wait([task])
