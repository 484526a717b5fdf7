"""The actor of one session: while it lives, the only one that changes the session.

Calls put commands into its inbox and wait for their futures; they never await Redis themselves, so
a cancelled call cannot break off a write. Appends that arrive while a script is in flight are
written together by the next one. A chat holds the session from its first write to its last; other
writers queue behind it.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import structlog

from memoryd.engine.errors import EngineError
from memoryd.engine.messages import Inspection
from memoryd.errors import (
    AcknowledgedLost,
    BacklogFull,
    GenerationChanged,
    MemorydError,
    OffsetBeyondEnd,
    OffsetConflict,
    OwnershipLost,
    SessionNotFound,
)
from memoryd.sessions.archive import Closed, RecentFrames, Said
from memoryd.sessions.checkpoint import Checkpointer
from memoryd.sessions.log import Change, SessionLog
from memoryd.sessions.recent import RecentTokens
from memoryd.sessions.services import Services
from memoryd.sessions.text import Piece
from memoryd.sessions.writers import Ack
from memoryd.storage.errors import JournalGap
from memoryd.storage.records import SessionRecord

logger = structlog.get_logger(__name__)

CHAT_WRITER = "\0chat:"  # writers' own names hold no control characters
THREADED_BYTES = 16 << 10  # longer text is tokenised beside the event loop
BATCH_BYTES = 1 << 20  # appends written by one script


@dataclass(frozen=True)
class Position:
    """An offset that a client sees."""

    generation: str
    tokens: int


class RunningChat(Protocol):
    """A chat as its session knows it, from its call to its end."""

    @property
    def request_id(self) -> str: ...

    def cancel(self) -> None:
        """Writes nothing more of the reply."""


@dataclass
class Append:
    """Pieces to append; `future` gives the Ack. writer "" has no protection against doubling."""

    pieces: Sequence[Piece]
    writer: str
    seq: int
    expected: Position | None
    future: "asyncio.Future[Ack]"


@dataclass
class Compose:
    """A change by the holder of the session, or by the actor itself (holder None)."""

    holder: object | None
    build: Callable[[SessionLog], Change | None]
    future: "asyncio.Future[None]"


@dataclass
class Hold:
    """Makes `holder` the only writer until it lets go."""

    holder: object
    future: "asyncio.Future[None]"


@dataclass
class Stop:
    """The last command: checkpoint and release as asked. Who waits for it waits for the end."""

    checkpoint: bool
    release: bool


Command = Append | Compose | Hold | Stop


@dataclass
class _Draft:
    """Appends accepted for the next script, and the change they make together."""

    change: Change
    accepted: list[tuple[Append, Ack]] = field(default_factory=list)


class SessionActor:
    """Owns one session. Made by `SessionManager`; `start` begins its task.

    on_end: called once when the actor has ended, for whatever reason.
    """

    def __init__(
        self,
        record: SessionRecord,
        services: Services,
        *,
        engine_key: str,
        absorbed: int,
        recent: RecentTokens,
        frames: RecentFrames,
        on_end: Callable[["SessionActor"], None],
    ) -> None:
        self.record = record
        self.services = services
        self.engine_key = engine_key
        self.log = SessionLog(
            services.store,
            record,
            recent,
            frames,
            on_tokens=self._on_tokens,
        )
        self.checkpointer = Checkpointer(services, record, engine_key)
        self.absorbed = absorbed
        self.chats: set[RunningChat] = set()
        self.last_used = time.monotonic()
        self.ended = asyncio.Event()
        self._on_end = on_end
        self._users = 0
        self._inbox: deque[Command] = deque()
        self._deferred: deque[Command] = deque()
        self._wake = asyncio.Event()
        self._absorbed_event = asyncio.Event()
        self._holder: object | None = None
        self._stopping = False
        self._gone: MemorydError | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._touched_ms = services.now_ms()

    # What callers see

    @property
    def generation(self) -> str:
        return self.record.generation

    @property
    def live(self) -> bool:
        """Takes calls."""
        return self._gone is None and not self._stopping

    @property
    def gone(self) -> MemorydError | None:
        """Why the actor has ended, or is about to."""
        return self._gone

    @property
    def idle(self) -> bool:
        """Nobody is waiting for anything: it may be written back and released."""
        return (
            self._users == 0
            and self._holder is None
            and not self._inbox
            and not self._deferred
            and not self.checkpointer.running
        )

    @property
    def backlog(self) -> int:
        """Tokens acknowledged and not yet absorbed."""
        return self.log.next - self.absorbed

    @contextmanager
    def used(self) -> Iterator[None]:
        """Keeps the session in memory for the time of a call."""
        self._users += 1
        try:
            yield
        finally:
            self._users -= 1
            self.last_used = time.monotonic()

    async def append(
        self, pieces: Sequence[Piece], *, writer: str, seq: int, expected: Position | None
    ) -> Ack:
        """Journals pieces. Cancelling the wait does not break off the write.

        Raises SequenceGap, OffsetConflict, GenerationChanged, TurnOpen, InvalidUtf8Content,
        BacklogFull, StorageFull, StorageUnavailable, OwnershipLost, AcknowledgedLost.
        """
        future: asyncio.Future[Ack] = asyncio.get_running_loop().create_future()
        self.post(Append(pieces, writer, seq, expected, future))
        return await future

    async def compose(
        self, build: Callable[[SessionLog], Change | None], *, holder: object | None = None
    ) -> None:
        """Runs `build` when no other change is under way, and journals what it gives."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.post(Compose(holder, build, future))
        await future

    async def hold(self, holder: object) -> None:
        """Waits until `holder` is the only writer; `let_go` ends that."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.post(Hold(holder, future))
        await future

    def let_go(self, holder: object) -> None:
        if self._holder is holder:
            self._holder = None
            self._inbox.extendleft(reversed(self._deferred))
            self._deferred.clear()
            self._wake.set()

    async def stop(self, *, checkpoint: bool, release: bool) -> None:
        """Finishes what came before, writes back, and ends. Idempotent."""
        if self._gone is None and not self._stopping:
            self.post(Stop(checkpoint, release))
            self._stopping = True
        await self.ended.wait()

    async def wait_absorbed(self, backlog: int) -> None:
        """Waits until at most `backlog` tokens are left to read. Raises when the session ends."""
        while self.backlog > backlog:
            self._raise_if_gone()
            self._absorbed_event.clear()
            await self._absorbed_event.wait()
        self._raise_if_gone()

    async def checkpoint(self) -> None:
        """Writes the state as it is absorbed now. Cancelling the wait does not break it off.

        Where Redis cannot take it the last checkpoint stays, and this is no error.
        """
        await asyncio.shield(self.spawn(self._checkpoint()))
        self._raise_if_gone()

    async def inspect(self, layers: Sequence[int], limit: int) -> Inspection:
        return await self.services.engine.inspect(self.engine_key, layers, limit)

    def check_offset(self, offset: Position) -> None:
        """Raises GenerationChanged or OffsetBeyondEnd where the stream never stood there."""
        if offset.generation and offset.generation != self.generation:
            raise GenerationChanged(
                f"offset of generation {offset.generation}, but the session is of "
                f"generation {self.generation}",
                expected=offset.generation,
                generation=self.generation,
            )
        if offset.tokens > self.log.next:
            raise OffsetBeyondEnd(
                f"token {offset.tokens} is beyond the end of the stream at {self.log.next}",
                offset=offset.tokens,
                end=self.log.next,
            )

    async def fence(self) -> None:
        """Asks Redis whether this actor still owns the session; ends it where not.

        Raises OwnershipLost, SessionNotFound, StorageUnavailable. Cancelling the caller does not
        break off the question.
        """
        await asyncio.shield(self.spawn(self._fence()))

    async def _fence(self) -> None:
        try:
            await self.services.store.check(self.record.lease)
            await self._refresh_ttl()
        except (OwnershipLost, SessionNotFound) as error:
            self.lose(error)
            raise

    async def _refresh_ttl(self) -> None:
        """Use keeps a session with a time to live alive; once in a tenth of it is enough."""
        now = self.services.now_ms()
        if self.record.ttl_ms and now - self._touched_ms >= self.record.ttl_ms // 10:
            await self.services.store.touch(self.record.lease)
            self._touched_ms = now

    # What the log and the engine tell

    def _on_tokens(self, tokens: Sequence[int]) -> None:
        self.services.counters.tokens_appended += len(tokens)
        self.services.metrics.appended(self.record.key.tenant, len(tokens))
        self.services.quotas.charge(self.record.key.tenant, len(tokens))
        self.services.quotas.changed(self.record.key)
        self.services.engine.feed(self.engine_key, tokens)

    def on_absorbed(self, offset: int) -> None:
        self.services.metrics.absorbed(self.record.key.tenant, offset - self.absorbed)
        self.absorbed = offset
        self._absorbed_event.set()
        self._checkpoint_if_due()

    def on_failed(self, reason: str) -> None:
        logger.error("session_failed", session=str(self.record.key), reason=reason)
        self.lose(MemorydError(f"the model failed on this session ({reason}); retry the call"))
        self.spawn(self.services.store.release(self.record.lease))

    # The actor itself

    def start(self) -> None:
        self.spawn(self._run())

    def spawn(self, work: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        """Runs work that outlives the call that asked for it."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._on_task_done)
        return task

    def _on_task_done(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            expected = isinstance(error, MemorydError)
            log = logger.info if expected else logger.error
            log("session_task_ended", error=repr(error), exc_info=None if expected else error)

    def post(self, command: Command) -> None:
        self._raise_if_gone()
        holds = isinstance(command, Compose) and command.holder is not None
        if self._stopping and not holds:
            raise OwnershipLost("the session is being written back; retry the call")
        self._inbox.append(command)
        self._wake.set()

    def _raise_if_gone(self) -> None:
        if self._gone is not None:
            raise self._gone

    def lose(self, error: MemorydError) -> None:
        """Ends the actor: everything that waits fails with `error`, the slot is dropped."""
        if self._gone is None:
            if isinstance(error, OwnershipLost):
                self.services.metrics.lease("lost")
            self._gone = error
            self._wake.set()
            self._absorbed_event.set()

    async def _run(self) -> None:
        try:
            while self._gone is None:
                if not self._inbox:
                    self._wake.clear()
                    await self._wake.wait()
                    continue
                command = self._inbox.popleft()
                holder = command.holder if isinstance(command, Compose) else None
                if self._holder is not None and holder is not self._holder:
                    self._deferred.append(command)
                elif isinstance(command, Stop):
                    await self._write_back(command)
                    break
                else:
                    await self._perform(command)
        finally:
            await self._end()

    async def _perform(self, command: Append | Compose | Hold) -> None:
        try:
            await self.log.settle()
            match command:
                case Append():
                    await self._append_batch(command)
                case Compose():
                    change = command.build(self.log)
                    if change is not None:
                        await self.log.write(change)
                    _resolve(command.future, None)
                case Hold():
                    self._holder = command.holder
                    if command.future.cancelled():
                        self.let_go(command.holder)
                    _resolve(command.future, None)
        except (OwnershipLost, SessionNotFound, AcknowledgedLost) as error:
            _reject(command.future, error)
            self.lose(error)
            if isinstance(error, AcknowledgedLost):
                self.spawn(self.services.store.release(self.record.lease))
        except MemorydError as error:
            _reject(command.future, error)
        except Exception as error:
            _reject(command.future, MemorydError("an append failed inside the daemon; see its log"))
            self.lose(MemorydError("the session failed inside the daemon; retry the call"))
            raise RuntimeError("a command broke its actor") from error

    async def _append_batch(self, first: Append) -> None:
        log = self.log
        draft = _Draft(Change([], log.text, log.writers, log.chats))
        size = 0
        command: Append | None = first
        while command is not None:
            size += await self._draft(draft, command)
            waiting = self._inbox[0] if self._inbox and size < BATCH_BYTES else None
            command = waiting if isinstance(waiting, Append) else None
            if command is not None:
                self._inbox.popleft()
        if not draft.accepted:
            return
        try:
            if (
                draft.change.tokens
                or draft.change.text != log.text
                or any(append.writer for append, _ in draft.accepted)
            ):
                await log.write(draft.change)
        except MemorydError as error:
            for append, _ in draft.accepted:
                _reject(append.future, error)
            raise
        for append, ack in draft.accepted:
            _resolve(append.future, ack)

    async def _draft(self, draft: _Draft, command: Append) -> int:
        """Adds one append to the draft, or refuses it; gives the bytes it was.

        One that nobody waits for any more, because its deadline passed, is left out: it was not
        begun, so its caller may take it for refused.
        """
        if command.future.done():
            return 0
        size = sum(len(piece.content) for piece in command.pieces)
        change, services = draft.change, self.services
        end = self.log.next + len(change.tokens)
        try:
            if command.writer:
                replayed = change.writers.replayed(command.writer, command.seq)
                if replayed is not None:
                    draft.accepted.append((command, replayed))
                    return 0
            self._check_room(end, command.expected)
            frame = partial(
                services.framer.append,
                change.text,
                command.pieces,
                writer=command.writer,
                now_ms=services.now_ms(),
                abandoned=change.text.writer.startswith(CHAT_WRITER),
            )
            tokens, text = await asyncio.to_thread(frame) if size > THREADED_BYTES else frame()
        except MemorydError as error:
            _reject(command.future, error)
            return 0
        ack = Ack(end + len(tokens), len(text.tail))
        writers = change.writers
        if command.writer:
            writers = writers.applied(command.writer, command.seq, ack)
        said = (Said(piece, command.writer) for piece in command.pieces)
        draft.change = Change(
            [*change.tokens, *tokens], text, writers, change.chats, (*change.events, *said)
        )
        draft.accepted.append((command, ack))
        return size

    def _check_room(self, end: int, expected: Position | None) -> None:
        if expected is not None:
            self.check_offset(expected)
            if expected.tokens != end:
                raise OffsetConflict(
                    f"the stream stands at token {end}, not at {expected.tokens}",
                    offset=end,
                    expected=expected.tokens,
                )
        limit = self.services.limits.backlog_hard_tokens
        if end - self.absorbed >= limit:
            raise BacklogFull(
                f"{end - self.absorbed} tokens wait to be read, the limit is {limit}",
                retry_after=1.0,
                backlog=end - self.absorbed,
                limit=limit,
            )

    # Housekeeping

    def close_abandoned_turn(self) -> None:
        """Posts the end of an open turn whose writer has been silent too long."""
        if self.live and self.services.framer.timed_out(self.log.text, self.services.now_ms()):
            self.spawn(self.compose(self._closed_turn))

    def _closed_turn(self, log: SessionLog) -> Change | None:
        if not self.services.framer.timed_out(log.text, self.services.now_ms()):
            return None
        tokens, text = self.services.framer.close(log.text)
        return Change(tokens, text, log.writers, log.chats, (Closed(),))

    def _checkpoint_if_due(self) -> None:
        if self.live and self.checkpointer.due(self.absorbed):
            self.spawn(self._checkpoint())

    async def _checkpoint(self) -> None:
        try:
            committed = await self.checkpointer.write()
        except JournalGap as gap:
            await self.compose(_restoring(gap.actual))
        except (OwnershipLost, SessionNotFound) as error:
            self.lose(error)
        else:
            if committed is not None:
                self.log.forget_before(committed.offset)
                self._checkpoint_if_due()  # for what was absorbed meanwhile

    async def _write_back(self, command: Stop) -> None:
        try:
            await self.log.settle()
            await self.checkpointer.finished()
            if command.checkpoint:
                await self._checkpoint()
            if command.release:
                await self.services.store.release(self.record.lease)
                self.services.metrics.lease("released")
        except (MemorydError, JournalGap) as error:
            logger.warning(
                "session_not_written_back", session=str(self.record.key), error=str(error)
            )

    async def _end(self) -> None:
        error = self._gone or OwnershipLost("the session was written back; retry the call")
        self._gone = error
        for command in (*self._inbox, *self._deferred):
            if not isinstance(command, Stop):
                _reject(command.future, error)
        self._inbox.clear()
        self._deferred.clear()
        self._absorbed_event.set()
        try:
            await self.services.engine.close(self.engine_key)
        except EngineError as failure:
            logger.warning("slot_not_closed", session=str(self.record.key), error=str(failure))
        self._on_end(self)
        self.ended.set()


def _restoring(survived: int) -> Callable[[SessionLog], Change | None]:
    """A change that writes nothing new; writing it makes the log notice what Redis lost."""

    def build(log: SessionLog) -> Change | None:
        return Change([], log.text, log.writers, log.chats) if survived < log.next else None

    return build


def _resolve(future: "asyncio.Future[Any]", value: object) -> None:
    if not future.done():
        future.set_result(value)


def _reject(future: "asyncio.Future[Any]", error: MemorydError) -> None:
    if not future.done():
        future.set_exception(error)
