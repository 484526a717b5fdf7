"""Decides what the model does next. Books only: no tensors, no model, no clock.

Tenants take turns, and a tenant's sessions absorb whole chunks in turn. A generation that wants
the backlog waits until its session has absorbed every whole chunk of what was fed before it; the
session then absorbs no further until its state was copied to a lane, for what is left of the target
must lie directly behind the copy.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from memoryd.engine.errors import GenerationFailed, IntegrityError
from memoryd.engine.lanes import LaneTable
from memoryd.engine.turns import Turns

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memoryd.engine.lanes import Move
    from memoryd.engine.messages import EngineOptions, GenerateRequest

# Prompt pieces in a row before absorbing gets a turn, so that a steady stream of questions slows
# the sessions' reading down but never stops it.
PREFILLS_PER_ABSORB = 8


@dataclass
class Session:
    """absorbed: tokens in the slot, a multiple of the chunk; backlog: the fed tokens behind it.

    background: absorbs only while no other session could.
    """

    number: int
    slot: int
    absorbed: int
    tenant: str
    background: bool = False
    backlog: list[int] = field(default_factory=list)

    @property
    def fed(self) -> int:
        return self.absorbed + len(self.backlog)


@dataclass(frozen=True)
class WaitingGeneration:
    """goal: where the session must stand when it is copied; None copies it as it is.

    target: tokens of the stream to have read in the end; None where goal is.
    """

    generation: int
    session: int
    prompt: tuple[int, ...]
    goal: int | None
    target: int | None


@dataclass
class Reading:
    """What the prefilling lane has to read, and how much of it is read."""

    generation: int
    tokens: tuple[int, ...]
    done: int = 0


@dataclass(frozen=True)
class Admission:
    """Copy `slot` to `lane`, then read prompt_tokens there."""

    generation: int
    slot: int
    lane: int
    memory_tokens: int
    prompt_tokens: int


@dataclass(frozen=True)
class PrefillPiece:
    generation: int
    lane: int
    tokens: tuple[int, ...]
    last: bool


@dataclass(frozen=True)
class AbsorbItem:
    session: int
    slot: int
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class AbsorbBatch:
    """The same number of whole chunks for each of several sessions."""

    items: tuple[AbsorbItem, ...]


def choose_rectangle(available: Sequence[int], limit: int) -> tuple[int, list[int]]:
    """How many chunks of which sessions to absorb in one call, at most `limit` in all.

    available: chunks that each session could absorb, the longest waiting first. That one always
    takes part, so none starves. Returns (chunks each, indices): the largest product, and among
    equals the one with more sessions.
    """
    best: tuple[int, list[int]] = (0, [])
    for chunks in range(1, min(available[0], limit) + 1):
        able = [i for i, n in enumerate(available) if n >= chunks][: limit // chunks]
        if chunks * len(able) > best[0] * len(best[1]):
            best = (chunks, able)
    return best


class Scheduler:
    """The books of sessions, waiting generations and lanes."""

    def __init__(self, chunk: int, options: EngineOptions) -> None:
        self._chunk = chunk
        self._options = options
        self._free_slots = deque(range(options.slots))
        self._sessions: dict[int, Session] = {}  # the longest since its last absorption first
        self._waiting: dict[int, WaitingGeneration] = {}  # in order of arrival
        self._reading: Reading | None = None
        self._prefills_in_a_row = 0
        self._reply_turns = Turns()
        self._absorb_turns = Turns()
        self.lanes = LaneTable(options.lanes)

    # Sessions.

    def session(self, number: int) -> Session | None:
        return self._sessions.get(number)

    @property
    def sessions(self) -> Sequence[Session]:
        return tuple(self._sessions.values())

    @property
    def backlog_tokens(self) -> int:
        return sum(len(s.backlog) for s in self._sessions.values())

    @property
    def waiting(self) -> int:
        """Generations without a lane."""
        return len(self._waiting)

    def open(
        self, number: int, offset: int, tenant: str = "", *, background: bool = False
    ) -> int | None:
        """The slot for a session whose state stands at `offset`, or None where all are taken."""
        if not self._free_slots:
            return None
        slot = self._free_slots.popleft()
        self._sessions[number] = Session(number, slot, offset, tenant, background)
        return slot

    def feed(self, number: int, tokens: Sequence[int]) -> None:
        self._sessions[number].backlog.extend(tokens)

    def close(self, number: int) -> list[int]:
        """Frees the session's slot; returns the generations that waited for it."""
        closed = self._sessions.pop(number)
        self._free_slots.append(closed.slot)
        if all(session.tenant != closed.tenant for session in self._sessions.values()):
            self._reply_turns.forget(closed.tenant)
            self._absorb_turns.forget(closed.tenant)
        orphans = [w.generation for w in self._waiting.values() if w.session == number]
        for generation in orphans:
            del self._waiting[generation]
        return orphans

    # Generations.

    def submit(self, generation: int, session_number: int, request: GenerateRequest) -> None:
        """Puts a generation in the queue. Raises GenerationFailed where it could never start."""
        session = self._sessions.get(session_number)
        if session is None:
            raise GenerationFailed("its session was closed")
        goal = target = None
        if request.include_backlog:
            target = session.fed
            goal = target - target % self._chunk
        if not (request.prompt or session.absorbed or target):
            raise GenerationFailed("there is nothing to read: stream and prompt are empty")
        self._waiting[generation] = WaitingGeneration(
            generation, session_number, request.prompt, goal, target
        )

    def remove(self, generation: int) -> list[Move]:
        """Takes a generation out, wherever it is; the lane moves that its leaving asks for."""
        if self._waiting.pop(generation, None) is not None:
            return []
        if self._reading is not None and self._reading.generation == generation:
            self._reading = None
        return self.lanes.remove(generation)

    def admit(self) -> Admission | None:
        """Gives a free lane to a generation that is ready, and ends its hold.

        To the first one of the tenant whose turn it is.
        """
        if not self.lanes.can_admit:
            return None
        ready = [
            waiting
            for waiting in self._waiting.values()
            if waiting.goal in (None, self._sessions[waiting.session].absorbed)
        ]
        if not ready:
            return None
        waiting = min(
            ready, key=lambda one: self._reply_turns.rank(self._sessions[one.session].tenant)
        )
        session = self._sessions[waiting.session]
        self._reply_turns.served(session.tenant)
        del self._waiting[waiting.generation]
        memory = session.absorbed if waiting.target is None else waiting.target
        tail = session.backlog[: memory - session.absorbed]
        self._reading = Reading(waiting.generation, (*tail, *waiting.prompt))
        lane = self.lanes.admit(waiting.generation)
        prompt_tokens = len(self._reading.tokens)
        return Admission(waiting.generation, session.slot, lane, memory, prompt_tokens)

    # Work beside the decode step.

    def next_work(self) -> PrefillPiece | AbsorbBatch | None:
        """A piece of the prompt that is being read, else chunks to absorb."""
        prefer_absorbing = self._prefills_in_a_row >= PREFILLS_PER_ABSORB
        if self._reading is None or prefer_absorbing:
            batch = self._absorb_batch()
            if batch is not None:
                self._prefills_in_a_row = 0
                return batch
        if self._reading is None:
            return None
        self._prefills_in_a_row += 1
        start = self._reading.done
        end = start + self._options.prefill_tokens_per_step
        return PrefillPiece(
            self._reading.generation,
            self.lanes.prefill_lane,
            self._reading.tokens[start:end],
            last=end >= len(self._reading.tokens),
        )

    def did_prefill(self, piece: PrefillPiece) -> None:
        """Books a piece as read; after the last one its lane decodes."""
        if self._reading is None:
            raise ValueError("no prompt is being read")
        self._reading.done += len(piece.tokens)
        if piece.last:
            self._reading = None
            self.lanes.start_decoding()

    def did_absorb(self, batch: AbsorbBatch) -> None:
        """Books a batch as absorbed; its sessions go to the end of the queue."""
        for item in batch.items:
            session = self._sessions.pop(item.session)
            self._absorb_turns.served(session.tenant)
            del session.backlog[: len(item.tokens)]
            session.absorbed += len(item.tokens)
            self._sessions[session.number] = session

    def _absorb_batch(self) -> AbsorbBatch | None:
        holds: dict[int, int] = {}
        for waiting in self._waiting.values():
            if waiting.goal is not None:
                held = holds.get(waiting.session, waiting.goal)
                holds[waiting.session] = min(held, waiting.goal)
        able: list[Session] = []
        available: list[int] = []
        # Sorting is stable: among a tenant's sessions the longest waiting stays the first.
        by_turn = sorted(
            self._sessions.values(), key=lambda one: self._absorb_turns.rank(one.tenant)
        )
        for session in by_turn:
            end = min(session.fed, holds.get(session.number, session.fed))
            chunks = (end - session.absorbed) // self._chunk
            if chunks > 0:
                able.append(session)
                available.append(chunks)
        if not able:
            return None
        if not all(session.background for session in able):
            front = [i for i, session in enumerate(able) if not session.background]
            able, available = [able[i] for i in front], [available[i] for i in front]
        busy = bool(self.lanes.decoding)
        limit = self._options.chunks_per_step_busy if busy else self._options.chunks_per_step
        chunks, chosen = choose_rectangle(available, limit)
        size = chunks * self._chunk
        return AbsorbBatch(
            tuple(
                AbsorbItem(able[i].number, able[i].slot, tuple(able[i].backlog[:size]))
                for i in chosen
            )
        )

    def check_idle(self) -> None:
        """Raises IntegrityError where the books contradict themselves while nothing is to do."""
        slots = sorted([*self._free_slots, *(s.slot for s in self._sessions.values())])
        if slots != list(range(self._options.slots)):
            raise IntegrityError(f"slots are lost or given twice: {slots}")
        if self.lanes.used or self._reading is not None:
            raise IntegrityError("idle with a lane in use")
        if self._waiting:
            raise IntegrityError(f"idle while generations {list(self._waiting)} wait")
        for session in self._sessions.values():
            if session.absorbed % self._chunk or len(session.backlog) >= self._chunk:
                raise IntegrityError(
                    f"idle with session {session.number} at {session.absorbed} and "
                    f"{len(session.backlog)} tokens to absorb"
                )
