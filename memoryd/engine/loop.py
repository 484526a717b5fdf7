"""The engine's thread: take messages, schedule, run, tell what happened."""

from __future__ import annotations

import time
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Protocol

import structlog

from memoryd.engine.errors import GenerationFailed, IntegrityError, StateRefused
from memoryd.engine.messages import (
    Absorbed,
    Answer,
    Cancel,
    Capture,
    Close,
    EngineStats,
    Feed,
    Generate,
    GenerationStopped,
    Inspect,
    Loaded,
    LoadFailed,
    Open,
    Progress,
    Refusal,
    SessionFailed,
    Stop,
    Stopped,
    Token,
)
from memoryd.engine.replies import Reply
from memoryd.engine.scheduler import AbsorbBatch, PrefillPiece, Scheduler

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractContextManager

    from memoryd.engine.lanes import Move
    from memoryd.engine.messages import (
        Array,
        Captured,
        Command,
        EngineInfo,
        EngineOptions,
        Event,
        GenerationEvent,
        Inspection,
    )
    from memoryd.engine.replies import Draw
    from memoryd.engine.scheduler import AbsorbItem

log = structlog.get_logger(__name__)

NOT_FINITE = "the model's logits are not finite"


class Runner(Protocol):
    """The model and its state: slots of sessions, and lanes of generations.

    After an exception the slots or lanes named in the call are undefined until they are reset,
    loaded or copied onto.
    """

    info: EngineInfo

    def activate(self) -> AbstractContextManager[object]:
        """Settings of the calling thread, entered once around all other calls."""
        ...

    def reset(self, slot: int) -> None: ...

    def load_slot(self, slot: int, arrays: Mapping[str, Array], offset: int) -> None:
        """Raises StateRefused and leaves the slot as it was."""
        ...

    def offset(self, slot: int) -> int:
        """Tokens that the slot has read."""
        ...

    def capture(self, slot: int) -> Captured:
        """Raises StateRefused for a state that is not finite."""
        ...

    def inspect(self, slot: int, layers: Sequence[int], limit: int) -> Inspection: ...

    def absorb(self, items: Sequence[AbsorbItem]) -> None: ...

    def copy_to_lane(self, slot: int, lane: int) -> None: ...

    def move_lane(self, source: int, target: int) -> None: ...

    def read(self, lane: int, tokens: Sequence[int]) -> None: ...

    def read_and_draw(self, lane: int, tokens: Sequence[int], draw: Draw) -> int | None:
        """The first token of the reply, or None where the logits are not finite.

        tokens may be empty where the lane has read some before.
        """
        ...

    def decode(self, tokens: Sequence[int], draws: Sequence[Draw]) -> list[int | None]:
        """Lane i reads tokens[i] and draws: the next token of each, None as above."""
        ...


class EngineLoop:
    """`run` is the thread's function; `inbox` takes commands from any thread."""

    def __init__(
        self,
        load: Callable[[], Runner],
        options: EngineOptions,
        emit: Callable[[Sequence[Event]], None],
    ) -> None:
        self.inbox: SimpleQueue[Command] = SimpleQueue()
        self.stats = EngineStats(0, options.slots, 0, options.lanes, 0, 0, 0, 0, 0, 0)
        self._load = load
        self._options = options
        self._emit = emit
        self._events: list[Event] = []
        self._replies: dict[int, Reply] = {}
        self._absorbed_tokens = self._absorb_steps = 0
        self._generated_tokens = self._decode_steps = 0
        self._stopping = False

    def run(self) -> None:
        """Serves until Stop. Whatever breaks the loop itself is told as Stopped with a reason."""
        try:
            self._runner = self._load()
        except Exception as error:  # noqa: BLE001 - every cause goes to whoever starts the engine
            self._emit([LoadFailed(error)])
            return
        self._scheduler = Scheduler(self._runner.info.chunk, self._options)
        reason = None
        try:
            with self._runner.activate():
                self._emit([Loaded(self._runner.info)])
                while not self._stopping:
                    self._iterate()
        except Exception as error:
            log.exception("engine loop broke")
            reason = _sentence(error)
        self._emit([*self._events, Stopped(reason)])

    def _iterate(self) -> None:
        self._take_messages()
        if self._stopping:
            return
        idle = not self._scheduler.lanes.used
        if self._scheduler.lanes.decoding:
            self._decode()
        if self._admit():
            idle = False
        self._tell()  # now, for the work below may take long
        work = self._scheduler.next_work()
        if isinstance(work, PrefillPiece):
            self._prefill(work)
        elif isinstance(work, AbsorbBatch):
            self._absorb(work)
        self._tell()
        if idle and work is None:
            self._check_idle()
            self._handle(self.inbox.get())

    def _tell(self) -> None:
        # Figures first: who has seen an event must find it in them.
        lanes, sessions = self._scheduler.lanes, self._scheduler.sessions
        self.stats = EngineStats(
            slots_used=len(sessions),
            slots_total=self._options.slots,
            lanes_used=lanes.used,
            lanes_total=lanes.count,
            waiting=self._scheduler.waiting,
            backlog_tokens=self._scheduler.backlog_tokens,
            absorbed_tokens=self._absorbed_tokens,
            absorb_steps=self._absorb_steps,
            generated_tokens=self._generated_tokens,
            decode_steps=self._decode_steps,
        )
        if self._events:
            self._emit(self._events)
            self._events = []

    def _check_idle(self) -> None:
        self._scheduler.check_idle()
        if self._replies:
            raise IntegrityError(f"idle with replies {list(self._replies)} unfinished")
        for session in self._scheduler.sessions:
            offset = self._runner.offset(session.slot)
            if offset != session.absorbed:
                raise IntegrityError(
                    f"slot {session.slot} stands at {offset}, its session at {session.absorbed}"
                )

    # Messages.

    def _take_messages(self) -> None:
        while not self._stopping:
            try:
                command = self.inbox.get_nowait()
            except Empty:
                return
            self._handle(command)

    def _handle(self, command: Command) -> None:
        match command:
            case Open():
                self._open(command)
            case Feed(session, tokens):
                # A session that failed a moment ago may still be fed.
                if self._scheduler.session(session) is not None:
                    self._scheduler.feed(session, tokens)
            case Capture(ticket, session):
                self._answer(ticket, session, self._runner.capture)
            case Inspect(ticket, session, layers, limit):
                self._answer(
                    ticket, session, lambda slot: self._runner.inspect(slot, layers, limit)
                )
            case Close(ticket, session):
                if self._scheduler.session(session) is not None:
                    self._close(session, "its session was closed")
                self._events.append(Answer(ticket, None))
            case Generate():
                self._generate(command)
            case Cancel(generation):
                if generation in self._replies:
                    self._remove(generation)
            case Stop():
                for generation in list(self._replies):
                    self._fail(generation, "the engine is stopping")
                self._stopping = True

    def _open(self, command: Open) -> None:
        slot = self._scheduler.open(
            command.session, command.offset, command.tenant, background=command.background
        )
        if slot is None:
            self._events.append(Refusal(command.ticket, "no_free_slot", "no slot is free"))
            return
        try:
            if command.arrays is None:
                self._runner.reset(slot)
            else:
                self._runner.load_slot(slot, command.arrays, command.offset)
        except Exception as error:  # noqa: BLE001 - _refusal logs what is not expected
            self._scheduler.close(command.session)
            self._events.append(Refusal(command.ticket, "state_refused", _refusal(error)))
        else:
            self._events.append(Answer(command.ticket, None))

    def _answer(
        self, ticket: int, number: int, read: Callable[[int], Captured | Inspection]
    ) -> None:
        session = self._scheduler.session(number)
        if session is None:
            self._events.append(Refusal(ticket, "not_open", "the session is closed"))
            return
        try:
            self._events.append(Answer(ticket, read(session.slot)))
        except Exception as error:  # noqa: BLE001 - _refusal logs what is not expected
            self._events.append(Refusal(ticket, "state_refused", _refusal(error)))

    def _generate(self, command: Generate) -> None:
        now = time.perf_counter()
        reply = Reply(command.request, now)
        self._replies[command.generation] = reply
        session = self._scheduler.session(command.session)
        if reply.is_full and session is not None:
            # A continued reply that had all its tokens when it was cut off.
            started = reply.start(session.fed, 0, now)
            self._progress(command.generation, [started, reply.finish("length", now)])
            del self._replies[command.generation]
            return
        try:
            self._scheduler.submit(command.generation, command.session, command.request)
        except GenerationFailed as error:
            del self._replies[command.generation]
            self._events.append(GenerationStopped(command.generation, error.reason))

    def _close(self, session: int, reason: str) -> None:
        for generation in self._scheduler.close(session):
            del self._replies[generation]
            self._events.append(GenerationStopped(generation, reason))

    # Steps.

    def _decode(self) -> None:
        generations = tuple(self._scheduler.lanes.decoding)
        replies = [self._replies[generation] for generation in generations]
        try:
            drawn = self._runner.decode(
                [reply.last_token for reply in replies], [reply.next_draw for reply in replies]
            )
        except Exception as error:
            log.exception("decode step failed", generations=len(generations))
            for generation in generations:
                self._fail(generation, _sentence(error))
            return
        self._decode_steps += 1
        for generation, token in zip(generations, drawn, strict=True):
            self._accept(generation, token)

    def _admit(self) -> bool:
        """Whether a generation left the queue."""
        admission = self._scheduler.admit()
        if admission is None:
            return False
        generation = admission.generation
        try:
            self._runner.copy_to_lane(admission.slot, admission.lane)
        except Exception as error:
            log.exception("copying a session failed")
            self._fail(generation, _sentence(error))
            return True
        started = self._replies[generation].start(
            admission.memory_tokens, admission.prompt_tokens, time.perf_counter()
        )
        self._progress(generation, [started])
        return True

    def _prefill(self, piece: PrefillPiece) -> None:
        token: int | None = None
        try:
            if piece.last:
                draw = self._replies[piece.generation].next_draw
                token = self._runner.read_and_draw(piece.lane, piece.tokens, draw)
            else:
                self._runner.read(piece.lane, piece.tokens)
        except Exception as error:
            log.exception("reading a prompt failed")
            self._fail(piece.generation, _sentence(error))
            return
        self._scheduler.did_prefill(piece)
        if piece.last:
            self._accept(piece.generation, token)

    def _absorb(self, batch: AbsorbBatch) -> None:
        try:
            self._runner.absorb(batch.items)
        except Exception as error:
            log.exception("absorb step failed", sessions=len(batch.items))
            reason = _sentence(error)
            for item in batch.items:
                self._close(item.session, f"its session failed, {reason}")
                self._events.append(SessionFailed(item.session, reason))
            return
        self._scheduler.did_absorb(batch)
        self._absorb_steps += 1
        for item in batch.items:
            self._absorbed_tokens += len(item.tokens)
            session = self._scheduler.session(item.session)
            if session is not None:
                self._events.append(Absorbed(item.session, session.absorbed))

    # Generations.

    def _accept(self, generation: int, token: int | None) -> None:
        if token is None:
            self._fail(generation, NOT_FINITE)
            return
        reply = self._replies[generation]
        events = reply.accept(token, time.perf_counter())
        self._progress(generation, events)
        self._generated_tokens += sum(isinstance(event, Token) for event in events)
        if reply.finished:
            self._remove(generation)

    def _progress(self, generation: int, events: Sequence[GenerationEvent]) -> None:
        self._events.extend(Progress(generation, event) for event in events)

    def _fail(self, generation: int, reason: str) -> None:
        self._remove(generation)
        self._events.append(GenerationStopped(generation, reason))

    def _remove(self, generation: int) -> None:
        del self._replies[generation]
        moves: Sequence[Move] = self._scheduler.remove(generation)
        for move in moves:
            self._runner.move_lane(move.source, move.target)


def _sentence(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _refusal(error: Exception) -> str:
    if isinstance(error, StateRefused):
        return error.reason
    log.error("a state could not be moved", exc_info=error)
    return _sentence(error)
