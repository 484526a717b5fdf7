"""Cutting a live session, and making a session from what was cut.

A copy is everything that a session holds: state, tokens that are not yet absorbed, text tail and
open turn, writers and stored replies, so that a retry is recognised by the copy as well. Only its
name and generation are new, and both stand in the state's header. Copying costs one state and what
lies behind it, whatever the length of the stream.
"""

import asyncio
import codecs
import secrets
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import get_args

import numpy as np

from memoryd.errors import (
    MemorydError,
    OwnershipLost,
    SessionExists,
    SessionNotFound,
    StateCorrupt,
)
from memoryd.sessions.actor import SessionActor
from memoryd.sessions.archive import frames
from memoryd.sessions.chat import MAX_RECORDS, ChatRecords
from memoryd.sessions.log import Change, SessionLog
from memoryd.sessions.manager import SessionManager
from memoryd.sessions.reply import FinishReason
from memoryd.sessions.services import Services
from memoryd.sessions.text import TextState
from memoryd.sessions.writers import MAX_WRITERS, Writers
from memoryd.storage.codec import (
    Array,
    ArrayLike,
    Expectation,
    StateHeader,
    body_digest,
    decode_state,
    encode_state,
)
from memoryd.storage.cut import Cut
from memoryd.storage.errors import CheckpointIncomplete
from memoryd.storage.keys import SessionKey
from memoryd.storage.records import BlobRef, Lease, SessionRecord
from memoryd.storage.store import pack_tokens

ATTEMPTS = 5
RETRY_SECONDS = 0.5


@asynccontextmanager
async def at_rest(actor: SessionActor) -> AsyncIterator[Cut]:
    """The cut of a session that nobody writes to meanwhile.

    It is checkpointed first, so that little lies behind the state, and Redis has agreed that it
    holds all that the cut tells of. Raises what appends raise.
    """
    await actor.checkpoint()
    holder = object()
    await actor.hold(holder)
    try:
        await actor.compose(_unchanged, holder=holder)
        yield _cut(actor)
    finally:
        actor.let_go(holder)


def _unchanged(log: SessionLog) -> Change:
    """Writes nothing new; writing it makes the log notice what Redis lost, and restore it."""
    return Change([], log.text, log.writers, log.chats)


def _cut(actor: SessionActor) -> Cut:
    record, log, blob = actor.record, actor.log, actor.checkpointer.committed
    tokens = log.recent.since(blob.offset if blob is not None else 0)
    if tokens is None:
        raise went_on(record.key)
    return Cut(
        key=record.key,
        generation=record.generation,
        model=record.model,
        next=log.next,
        blob=blob,
        tokens=pack_tokens(tokens),
        text=log.text.pack(),
        writers=log.writers.pack(),
        fields=log.chats.pack(),
        labels=record.labels,
        ttl_ms=record.ttl_ms,
        archive=record.archive,
        archived=log.frames.end,
    )


async def read_out(actor: SessionActor) -> tuple[Cut, bytes]:
    """A session's cut and the state that it names, b"" where it names none.

    A checkpoint that is committed meanwhile frees the state before it: then it is cut again.
    """
    blobs = actor.services.blobs
    for _ in range(ATTEMPTS):
        async with at_rest(actor) as cut:
            if cut.blob is None:
                return cut, b""
            try:
                return cut, await blobs.get(cut.key, cut.generation, cut.blob)
            except StateCorrupt:
                await actor.fence()
                if actor.checkpointer.committed == cut.blob:
                    raise
    raise went_on(actor.record.key)


def went_on(key: SessionKey) -> OwnershipLost:
    return OwnershipLost(
        f"session {key.name!r} was checkpointed again and again while it was copied; retry",
        retry_after=RETRY_SECONDS,
        session=key.name,
    )


@dataclass(frozen=True)
class Seed:
    """A verified copy whose state is staged under a generation of its own."""

    cut: Cut
    key: SessionKey
    generation: str
    blob: BlobRef | None


class Planter:
    """Makes sessions from cuts; nothing is left behind of one that is refused."""

    def __init__(self, manager: SessionManager) -> None:
        self._manager = manager

    @property
    def _services(self) -> Services:
        return self._manager.services

    async def verify(
        self, cut: Cut, state: bytes
    ) -> tuple[StateHeader, Mapping[str, Array]] | None:
        """Everything that is asked of a session when it is loaded, asked before it is one.

        Raises StateCorrupt, ModelMismatch, SlotsBusy.
        """
        services = self._services
        check_contents(cut, services.engine.info.vocab_size)
        self._manager.check_model(cut.model, cut.key.name)
        if cut.blob is None:
            return None
        header, arrays = await asyncio.to_thread(
            decode_state,
            state,
            expect=Expectation(
                model=services.model_id,
                tenant=cut.key.tenant,
                session=cut.key.name,
                generation=cut.generation,
                offset=cut.blob.offset,
                digest=cut.blob.digest,
            ),
        )
        await self._manager.try_state(cut.blob.offset, arrays)
        return header, arrays

    async def stage(
        self,
        cut: Cut,
        state: bytes,
        key: SessionKey,
        archive: AsyncIterator[bytes] | None = None,
    ) -> Seed:
        """Verify a cut, and put its state and archive beside where they are wanted.

        archive: None reads that of the session which was cut. Raises as `verify`, StorageFull, and
        what reading the archive raises.
        """
        verified = await self.verify(cut, state)
        seed = Seed(cut, key, secrets.token_hex(8), None)
        archives = self._services.store.archives
        try:
            if cut.archived:
                source = archive or archives.read(cut.key, cut.generation, cut.archived)
                await archives.copy(source, key, seed.generation)
            if verified is None:
                return seed
            return replace(seed, blob=await self.put_state(seed, *verified))
        except MemorydError:
            await self.drop(seed)
            raise

    async def put_state(
        self, seed: Seed, header: StateHeader, arrays: Mapping[str, ArrayLike]
    ) -> BlobRef:
        """Stage a state as one of the session that is being made."""
        key, generation = seed.key, seed.generation
        renamed = StateHeader(
            model=header.model,
            numerics=header.numerics,
            tenant=key.tenant,
            session=key.name,
            generation=generation,
            offset=header.offset,
        )
        body = await asyncio.to_thread(encode_state, renamed, arrays)
        attempt = uuid.uuid4().hex
        parts = await self._services.blobs.put(key, generation, attempt, body)
        return BlobRef(attempt, header.offset, len(body), parts, body_digest(body))

    async def plant(self, seed: Seed, *, replacing: Lease | None = None) -> SessionRecord:
        """Put a staged copy in place. Raises SessionExists, and what storage raises.

        A staged state is dropped only where it is certain that it was refused: without an answer it
        may have become the session's checkpoint, and if not it expires by itself.
        """
        store = self._services.store
        try:
            if replacing is None:
                await store.enlist(seed.key)
            return await store.snapshots.install(
                seed.cut, seed.key, seed.generation, seed.blob, replacing=replacing
            )
        except (SessionExists, OwnershipLost, SessionNotFound, CheckpointIncomplete):
            await self.drop(seed)
            raise

    async def drop(self, seed: Seed) -> None:
        if seed.cut.archived:
            await self._services.store.archives.discard(seed.key, seed.generation)
        if seed.blob is not None:
            await self._services.blobs.discard(seed.key, seed.generation, seed.blob.attempt)


def check_archive(archive: bytes, end: int) -> None:
    """Whether an archive can be read and leads to token `end`. Raises StateCorrupt."""
    at = 0
    for frame, _ in frames(archive):
        if frame.next < at:
            raise StateCorrupt(f"the archive goes back from token {at} to {frame.next}")
        at = frame.next
    if archive and at != end:
        raise StateCorrupt(f"the archive leads to token {at}, the cut stands at {end}")


def check_contents(cut: Cut, vocab_size: int) -> None:
    """What stands in a cut beside its state. Raises StateCorrupt."""
    tokens = np.frombuffer(cut.tokens, dtype="<u4")
    if len(tokens) and int(tokens.max()) >= vocab_size:
        raise StateCorrupt(f"a token of the cut is not below the vocabulary's {vocab_size}")
    text = TextState.unpack(cut.text)
    try:
        codecs.getincrementaldecoder("utf-8")().decode(text.tail)
    except UnicodeDecodeError as error:
        raise StateCorrupt(f"the text behind the cut is not UTF-8 ({error.reason})") from error
    if Writers.unpack(cut.writers).count > MAX_WRITERS:
        raise StateCorrupt(f"the cut has more than {MAX_WRITERS} writers")
    chats = ChatRecords.unpack(cut.fields).records
    if len(chats) > MAX_RECORDS:
        raise StateCorrupt(f"the cut has more than {MAX_RECORDS} stored replies")
    for record in chats.values():
        if any(not 0 <= token < vocab_size for token in record.reply):
            raise StateCorrupt("a stored reply of the cut has a token that no vocabulary has")
        if record.finish not in (None, *get_args(FinishReason)):
            raise StateCorrupt("a stored reply of the cut ended in no known way")
