"""Building a session's memory a second time, to see that it is the one in use.

The state at a chunk boundary is a function of the model and the tokens before it. An archived
session is built from what was said to it; any other one from its newest checkpoint on, for what
came before is kept nowhere. The session itself is only looked at: its state is captured, and
everything else is a comparison with that.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from memoryd.detached import detached
from memoryd.engine.errors import EngineError, TokenOutOfRange
from memoryd.engine.messages import Captured
from memoryd.errors import StateCorrupt
from memoryd.sessions.actor import Position, SessionActor
from memoryd.sessions.archive import frames
from memoryd.sessions.copying import ATTEMPTS, went_on
from memoryd.sessions.log import journalled
from memoryd.sessions.manager import SessionManager
from memoryd.sessions.replay import Replay, same_text
from memoryd.sessions.spare import SpareSlot, spare_slot
from memoryd.sessions.text import TextState
from memoryd.storage.codec import Array


class Kind(Enum):
    """What differs."""

    UNREADABLE = "unreadable"
    TOKENS = "tokens"
    TEXT = "text"
    STATE = "state"


@dataclass(frozen=True)
class Difference:
    """tokens: all before this one was equal; of a state, its offset."""

    kind: Kind
    tokens: int
    detail: str


@dataclass(frozen=True)
class Rebuilding:
    """How far a session is read again. Bytes of the archive; both are 0 without one."""

    tokens: int
    archive: int = 0
    archive_end: int = 0


@dataclass(frozen=True)
class Verification:
    """What was compared. begin: where the rebuilding began; rebuilt: "" where it did not end."""

    offset: Position
    begin: int
    from_archive: bool
    checksum: str
    rebuilt: str
    difference: Difference | None


class _Differs(Exception):
    def __init__(self, kind: Kind, tokens: int, detail: str) -> None:
        super().__init__(detail)
        self.difference = Difference(kind, tokens, detail)


@dataclass(frozen=True)
class _Live:
    """The session as it is in use.

    state: at the last boundary that was read. begin: the checkpoint's offset; arrays: its state.
    tokens: those from `begin` to `next`. text, archived: what is true at `next`.
    """

    state: Captured
    begin: int
    arrays: Mapping[str, Array] | None
    tokens: Sequence[int]
    next: int
    text: TextState
    archived: int


async def verify(
    manager: SessionManager, actor: SessionActor
) -> AsyncGenerator[Rebuilding | Verification]:
    """Rebuilding as it goes, then one Verification. Leaving it early ends the work.

    Raises SlotsBusy, OwnershipLost, SessionNotFound, StorageUnavailable.
    """
    try:
        state = await actor.services.engine.capture(actor.engine_key)
    except EngineError as error:
        failure = StateCorrupt(f"the state in memory cannot be read: {error}")
        raise actor.gone or failure from error
    rebuilt = ""
    difference = None
    begin = 0
    try:
        live = await _look(manager, actor, state)
        begin = 0 if actor.record.archive else live.begin
        async with spare_slot(
            manager,
            tenant=actor.record.key.tenant,
            offset=begin,
            arrays=None if actor.record.archive else live.arrays,
            background=True,
        ) as slot:
            yield Rebuilding(slot.absorbed, 0, live.archived)
            if actor.record.archive:
                async for progress in _read_archive(actor, live, slot):
                    yield progress
            else:
                slot.feed(live.tokens[: state.offset - begin])
            while slot.absorbed < state.offset:
                step = min(state.offset, slot.absorbed + actor.services.limits.checkpoint_tokens)
                await slot.reached(step)
                yield Rebuilding(slot.absorbed, live.archived, live.archived)
            again = await slot.capture()
        rebuilt = again.checksum
        _compare_states(state, again)
    except _Differs as found:
        difference = found.difference
    actor.services.metrics.rebuilt("verify", difference.kind.value if difference else "equal")
    yield Verification(
        offset=Position(actor.generation, state.offset),
        begin=begin,
        from_archive=actor.record.archive,
        checksum=state.checksum,
        rebuilt=rebuilt,
        difference=difference,
    )


async def _look(manager: SessionManager, actor: SessionActor, state: Captured) -> _Live:
    """Reads what is stored beside the state in use, and compares the journal with its owner's.

    A checkpoint that is committed meanwhile takes the one before and its journal away: then all is
    read again.
    """
    store, record = actor.services.store, actor.record
    for _ in range(ATTEMPTS):
        blob, log = actor.checkpointer.committed, actor.log
        if blob is not None and blob.offset > state.offset:
            raise went_on(record.key)
        try:
            begin, arrays = await manager.read_checkpoint(record, blob)
            reading = store.read_journal(record.lease, begin)
            stored = journalled(await detached(reading), begin)
        except StateCorrupt as error:
            await actor.fence()
            if actor.checkpointer.committed != blob:
                continue
            at = blob.offset if blob is not None else 0
            raise _Differs(Kind.UNREADABLE, at, error.message) from error
        tokens = log.recent.since(begin)
        if tokens is None:
            continue
        _compare_tokens(stored, tokens, begin, "the journal")
        return _Live(state, begin, arrays, tokens, log.next, log.text, log.frames.end)
    raise went_on(record.key)


async def _read_archive(
    actor: SessionActor, live: _Live, slot: SpareSlot
) -> AsyncGenerator[Rebuilding]:
    """Feeds the slot what the archive says, up to where the state in use stands."""
    services, record = actor.services, actor.record
    replay = Replay(services.framer, as_drawn=True)
    end, done = live.state.offset, 0
    chunk = services.engine.info.chunk
    reading = services.store.archives.read(record.key, record.generation, live.archived)
    try:
        async for data in reading:
            for frame, packed in frames(data):
                at = replay.next
                tokens, _ = replay.apply(frame.events)
                if replay.next != frame.next:
                    raise _Differs(
                        Kind.TOKENS,
                        at,
                        f"what was said behind token {at} gives {len(tokens)} tokens, but "
                        f"{frame.next - at} were acknowledged",
                    )
                _compare_overlap(live, tokens, at)
                slot.feed(tokens[: max(0, end - at)])
                done += len(packed)
            # So much is fed ahead, and no more: an archive is longer than memory.
            ahead = min(replay.next, end) - services.limits.checkpoint_tokens
            await slot.reached(max(0, ahead) // chunk * chunk)
            yield Rebuilding(slot.absorbed, done, live.archived)
    except (StateCorrupt, TokenOutOfRange) as error:
        await actor.fence()
        raise _Differs(Kind.UNREADABLE, replay.next, str(error)) from error
    finally:
        await reading.aclose()
    if replay.next != live.next:
        raise _Differs(
            Kind.TOKENS,
            min(replay.next, live.next),
            f"the archive leads to token {replay.next}, the journal to {live.next}",
        )
    if not same_text(replay.text, live.text):
        raise _Differs(
            Kind.TEXT, live.next, "the bytes behind the last token or the open turn differ"
        )


def _compare_overlap(live: _Live, tokens: Sequence[int], at: int) -> None:
    """Compares tokens that begin at offset `at` with those of them that are still known."""
    skip = max(0, live.begin - at)
    if skip >= len(tokens):
        return
    known = live.tokens[at + skip - live.begin :][: len(tokens) - skip]
    _compare_tokens(tokens[skip : skip + len(known)], known, at + skip, "the archive")


def _compare_tokens(found: Sequence[int], wanted: Sequence[int], at: int, where: str) -> None:
    for number, (one, other) in enumerate(zip(found, wanted, strict=False)):
        if one != other:
            raise _Differs(
                Kind.TOKENS,
                at + number,
                f"token {at + number} is {other} in use, {one} by {where}",
            )


def _compare_states(live: Captured, again: Captured) -> None:
    if live.checksum == again.checksum and live.offset == again.offset:
        return
    differing = [
        name
        for name, array in live.arrays.items()
        if name not in again.arrays or bytes(again.arrays[name].data) != bytes(array.data)
    ]
    first = f"first in {differing[0]}, " if differing else ""
    raise _Differs(
        Kind.STATE,
        live.offset,
        f"the same tokens gave another state, {first}in {len(differing)} of {len(live.arrays)} "
        "arrays; if the session was read under another numerics fingerprint before, that is one "
        "reason",
    )
