"""Reading an archived session again with the model and tokenizer that are served now.

The new memory is staged beside the old one and put in its place by the one script that installs any
copy, so there is no moment at which the session is neither. What breaks off before leaves a staged
copy that expires, and is begun again from the start: the archive is the only truth it needs.
"""

import asyncio
import secrets
from collections.abc import AsyncGenerator, Coroutine
from dataclasses import replace
from typing import Any, TypeVar

from memoryd.detached import detached
from memoryd.errors import NotArchived, StateCorrupt
from memoryd.sessions.actor import CHAT_WRITER
from memoryd.sessions.archive import Closed, Frame, frames
from memoryd.sessions.chat import ChatRecords
from memoryd.sessions.copying import Planter, Seed
from memoryd.sessions.manager import SessionManager
from memoryd.sessions.recent import RecentTokens
from memoryd.sessions.replay import Replay
from memoryd.sessions.spare import SpareSlot, spare_slot
from memoryd.sessions.text import TextFramer
from memoryd.sessions.verifying import Rebuilding
from memoryd.sessions.writers import Ack, Writers
from memoryd.storage.codec import StateHeader
from memoryd.storage.cut import Cut
from memoryd.storage.keys import SessionKey
from memoryd.storage.records import SessionRecord
from memoryd.storage.store import pack_tokens

Result = TypeVar("Result")


async def migrate_in_place(
    manager: SessionManager, key: SessionKey
) -> AsyncGenerator[Rebuilding | SessionRecord]:
    """Rebuilding as it goes, then the session under its new generation, owned by nobody.

    A session of the served model is given as it is. Leaving early ends the work, unless the switch
    has begun. Raises SessionNotFound, NotArchived, OwnershipLost (another daemon holds it),
    SessionMigrating, StateCorrupt, SlotsBusy, StorageFull, StorageUnavailable.
    """
    record = await manager.record(key)
    if record.model == manager.services.model_id:
        yield record
        return
    _check_archived(record)
    async with manager.taken(record) as taken:
        migration = _Migration(manager, taken.record, key)
        async for progress in migration.read():
            yield progress
        switching = asyncio.ensure_future(migration.plant(replacing=True))
        taken.unfinished.append(switching)
        planted = await asyncio.shield(switching)
    manager.services.metrics.rebuilt("migrate", "done")
    yield planted


async def migrate_to(
    manager: SessionManager, key: SessionKey, new_key: SessionKey
) -> AsyncGenerator[Rebuilding | SessionRecord]:
    """As `migrate_in_place`, but the session goes on as it is and a new one is made beside it.

    Raises SessionExists too. Whoever owns the session may write to it meanwhile: what the new one
    holds is true of the moment at which the call began.
    """
    record = await manager.record(key)
    _check_archived(record)
    migration = _Migration(manager, record, new_key)
    async for progress in migration.read():
        yield progress
    planted = await detached(migration.plant(replacing=False))
    manager.services.metrics.rebuilt("migrate", "done")
    yield planted


async def uninterrupted(work: Coroutine[Any, Any, Result]) -> Result:
    """Await work that must not be cut off: a caller who is cancelled leaves when it has ended."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # nobody else will ask for it
        raise


def _check_archived(record: SessionRecord) -> None:
    if not record.archive:
        raise NotArchived(
            f"session {record.key.name!r} keeps no archive: only what was created with "
            "archive=true can be read again",
            session=record.key.name,
        )


class _Migration:
    """One session read again for `key`. Nothing is left of one that `read` did not finish."""

    def __init__(self, manager: SessionManager, record: SessionRecord, key: SessionKey) -> None:
        self._services = manager.services
        self._manager = manager
        self._planter = Planter(manager)
        self._record = record
        self._key = key
        services = manager.services
        self._replay = Replay(services.framer, as_drawn=False, now_ms=services.now_ms())
        self._recent = RecentTokens(0)
        self._writers = _WriterOffsets(Writers.unpack(record.writers))
        self._staged = 0
        self._seed = self._seed_of(secrets.token_hex(8))

    async def read(self) -> AsyncGenerator[Rebuilding]:
        """Reads the whole archive and stages what comes of it."""
        try:
            async with spare_slot(self._manager, tenant=self._key.tenant, background=False) as slot:
                async for progress in self._read(slot):
                    yield progress
                await uninterrupted(self._stage_state(slot))
        except BaseException:
            # Nothing is on its way any more; what a lost answer left behind expires.
            await detached(self._planter.drop(self._seed))
            raise

    async def plant(self, *, replacing: bool) -> SessionRecord:
        """Puts what was read in place. Runs to its end even if its caller leaves."""
        lease = self._record.lease if replacing else None
        return await self._planter.plant(self._seed, replacing=lease)

    async def _read(self, slot: SpareSlot) -> AsyncGenerator[Rebuilding]:
        services, record = self._services, self._record
        chunk, window = services.engine.info.chunk, services.limits.checkpoint_tokens
        done = 0
        reading = services.store.archives.read(record.key, record.generation, record.archived)
        try:
            async for data in reading:
                told = [self._apply(frame, slot) for frame, _ in frames(data)]
                await self._stage_frames(told)
                done += len(data)
                # So much is fed ahead, and no more: an archive is longer than memory.
                await slot.reached(max(0, self._replay.next - window) // chunk * chunk)
                self._recent.forget_before(slot.absorbed)
                yield Rebuilding(slot.absorbed, done, record.archived)
        finally:
            await reading.aclose()
        if self._replay.text.writer.startswith(CHAT_WRITER):
            # A reply that broke off went on with ids of the old vocabulary: it ends here.
            end = Frame(self._replay.next, (Closed(),))
            await self._stage_frames([self._apply(end, slot)])
        end_offset = self._replay.next // chunk * chunk
        while slot.absorbed < end_offset:
            await slot.reached(min(end_offset, slot.absorbed + window))
            yield Rebuilding(slot.absorbed, done, record.archived)

    def _apply(self, frame: Frame, slot: SpareSlot) -> bytes:
        tokens, told = self._replay.apply(frame.events)
        slot.feed(tokens)
        self._recent.extend(tokens)
        self._writers.passed(frame.next, told.next)
        return told.pack()

    async def _stage_frames(self, packed: list[bytes]) -> None:
        staging = self._services.store.archives.stage(
            self._key, self._seed.generation, self._staged, [b"".join(packed)]
        )
        self._staged = await uninterrupted(staging)

    async def _stage_state(self, slot: SpareSlot) -> None:
        services, generation = self._services, self._seed.generation
        captured = await slot.capture()
        tokens = self._recent.since(captured.offset)
        if tokens is None:
            raise StateCorrupt("the tokens behind the rebuilt state are gone")
        self._seed = self._seed_of(
            generation,
            next=self._replay.next,
            tokens=pack_tokens(tokens),
            text=self._replay.text.pack(),
            writers=self._writers.mapped().pack(),
            archived=self._staged,
        )
        if captured.offset:
            header = StateHeader(
                model=services.model_id,
                numerics=services.numerics,
                tenant=self._key.tenant,
                session=self._key.name,
                generation=generation,
                offset=captured.offset,
            )
            blob = await self._planter.put_state(self._seed, header, captured.arrays)
            self._seed = replace(self._seed, blob=blob)

    def _seed_of(self, generation: str, **read: object) -> Seed:
        """The copy as far as it is known; `read`: fields of its cut that reading has given."""
        record = self._record
        cut = Cut(
            key=record.key,
            generation=record.generation,
            model=self._services.model_id,
            next=0,
            blob=None,
            tokens=b"",
            text=b"",
            writers=b"",
            fields=_translated(record, self._services.framer),
            labels=record.labels,
            ttl_ms=record.ttl_ms,
            archive=True,
            archived=record.archived,
        )
        return Seed(replace(cut, **read), self._key, generation, None)  # type: ignore[arg-type]


def _translated(record: SessionRecord, framer: TextFramer) -> dict[str, bytes]:
    """The stored replies with the ids that their text has now."""
    chats = ChatRecords.unpack(record.fields).records
    return ChatRecords(
        {
            name: replace(
                chat, reply=tuple(framer.encode(chat.text)), finish=chat.finish or "cancelled"
            )
            for name, chat in chats.items()
        }
    ).pack()


class _WriterOffsets:
    """Where acknowledged offsets of the old stream lie in the new one.

    A frame may hold several writers' messages. An acknowledgement then names the frame's end, so
    that a query for it sees no less than was acknowledged.
    """

    def __init__(self, writers: Writers) -> None:
        self._waiting = dict(writers.entries)
        self._order = tuple(writers.entries)
        self._mapped: dict[str, tuple[int, Ack]] = {}

    def passed(self, old: int, new: int) -> None:
        """Offset `old` is `new` now, and all before it lies before."""
        for writer, (seq, end, tail_bytes) in list(self._waiting.items()):
            if end <= old:
                self._mapped[writer] = (seq, Ack(new, tail_bytes))
                del self._waiting[writer]

    def mapped(self) -> Writers:
        """All of them; one that no frame reached stands where the stream begins."""
        writers = Writers()
        for writer in self._order:
            seq, ack = self._mapped.get(writer) or (self._waiting[writer][0], Ack(0, 0))
            writers = writers.applied(writer, seq, ack)
        return writers
