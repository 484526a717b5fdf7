"""The asyncio side of the engine: a handle whose calls become messages to the thread."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, TypeVar

from memoryd.engine.errors import (
    EngineStopped,
    GenerationFailed,
    LayerKeepsNoTokens,
    NoFreeSlot,
    SessionAlreadyOpen,
    SessionNotOpen,
    StateRefused,
    TokenOutOfRange,
)
from memoryd.engine.generation import Generation
from memoryd.engine.loop import EngineLoop
from memoryd.engine.messages import (
    Absorbed,
    Answer,
    Cancel,
    Capture,
    Captured,
    Close,
    Feed,
    Finished,
    Generate,
    GenerationStopped,
    Inspect,
    Inspection,
    Loaded,
    LoadFailed,
    Open,
    Progress,
    Refusal,
    SessionFailed,
    Stop,
    Stopped,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from memoryd.engine.loop import Runner
    from memoryd.engine.messages import (
        Array,
        Command,
        EngineInfo,
        EngineOptions,
        EngineStats,
        Event,
        GenerateRequest,
    )

_Result = TypeVar("_Result", Captured, Inspection)


@dataclass(frozen=True)
class _OpenSession:
    key: str
    number: int
    on_absorbed: Callable[[int], None]
    on_failed: Callable[[str], None]


class Engine:
    """Runs one model in a thread of its own. All calls belong on one asyncio loop.

    load: makes the runner; called in the thread, its exceptions come out of `start`.
    """

    info: EngineInfo  # from start on

    def __init__(self, load: Callable[[], Runner], options: EngineOptions) -> None:
        self._options = options
        self._engine_loop = EngineLoop(load, options, self._post)
        self._thread = threading.Thread(target=self._engine_loop.run, name="engine", daemon=True)
        self._numbers = count(1)
        self._sessions: dict[str, _OpenSession] = {}
        self._keys: dict[int, str] = {}
        self._generations: dict[int, Generation] = {}
        self._tickets: dict[int, asyncio.Future[Captured | Inspection | None]] = {}
        self._stop_reason: str | None = "it was not started"

    async def start(self) -> EngineInfo:
        """Loads the model and begins to serve. Call it once."""
        self._asyncio_loop = asyncio.get_running_loop()
        self._loaded: asyncio.Future[EngineInfo] = self._asyncio_loop.create_future()
        self._ended = asyncio.Event()
        self._thread.start()
        self.info = await self._loaded
        return self.info

    async def stop(self) -> None:
        """Ends the thread. Generations fail; sessions are dropped as they are. Idempotent."""
        if self._thread.ident is None:
            return
        self._engine_loop.inbox.put(Stop())
        await self._ended.wait()
        self._thread.join()

    def stats(self) -> EngineStats:
        """Figures as of the last step."""
        return self._engine_loop.stats

    async def open(
        self,
        key: str,
        *,
        tenant: str = "",
        offset: int = 0,
        arrays: Mapping[str, Array] | None = None,
        background: bool = False,
        on_absorbed: Callable[[int], None],
        on_failed: Callable[[str], None],
    ) -> None:
        """Gives the session a slot: empty, or with the state `arrays` of `offset` tokens.

        tenant: whose session it is; tenants take turns where there is too much to do.
        background: read only while no other session has something to read.
        on_absorbed gets the new offset after each step that read some of the session's tokens.
        on_failed gets the reason once, when the slot was lost; the key is closed then.
        Raises NoFreeSlot, StateRefused, SessionAlreadyOpen.
        """
        if arrays is None and offset != 0:
            raise ValueError(f"a session without state starts at 0, not at {offset}")
        self._require_running()
        if key in self._sessions:
            raise SessionAlreadyOpen(key)
        session = _OpenSession(key, next(self._numbers), on_absorbed, on_failed)
        self._sessions[key] = session
        self._keys[session.number] = key
        try:
            await self._ask(
                key,
                lambda ticket: Open(ticket, session.number, tenant, offset, arrays, background),
            )
        except asyncio.CancelledError:
            if self._forget(session.number) is not None:
                self._send(Close(next(self._numbers), session.number))
            raise
        except BaseException:
            self._forget(session.number)
            raise

    def feed(self, key: str, tokens: Sequence[int]) -> None:
        """Takes the next tokens of the session's journal; whole chunks are absorbed in time.

        Raises SessionNotOpen, TokenOutOfRange; then none of them is taken.
        """
        session = self._session(key)
        self._send(Feed(session.number, self._checked(tokens)))

    async def capture(self, key: str) -> Captured:
        """The session's state as it is absorbed now. Raises SessionNotOpen, StateRefused."""
        number = self._session(key).number
        return _expect(Captured, await self._ask(key, lambda ticket: Capture(ticket, number)))

    async def inspect(self, key: str, layers: Sequence[int], limit: int) -> Inspection:
        """What each head of the LTE layers named keeps (none named: all), at most `limit` a head.

        Best first. Raises SessionNotOpen, LayerKeepsNoTokens, StateRefused.
        """
        number = self._session(key).number
        for layer in layers:
            if layer not in self.info.lte_layers:
                raise LayerKeepsNoTokens(layer, self.info.lte_layers)
        chosen = tuple(layers) or self.info.lte_layers
        answer = await self._ask(key, lambda ticket: Inspect(ticket, number, chosen, limit))
        return _expect(Inspection, answer)

    async def close(self, key: str) -> None:
        """Frees the slot. Replies that wait for it fail; those on their copies go on.

        Silent where the key is not open; the key can be opened anew at once.
        """
        session = self._sessions.get(key)
        if session is not None and self._stop_reason is None:
            self._forget(session.number)
            await self._ask(key, lambda ticket: Close(ticket, session.number))

    def generate(self, key: str, request: GenerateRequest) -> Generation:
        """Starts a reply on a copy of the session. Raises SessionNotOpen, TokenOutOfRange."""
        session = self._session(key)
        self._checked(request.prompt)
        self._checked(request.drawn)
        number = next(self._numbers)
        generation = Generation(partial(self._cancel, number))
        self._generations[number] = generation
        self._send(Generate(number, session.number, request))
        return generation

    def _cancel(self, number: int) -> None:
        if self._generations.pop(number, None) is not None:
            self._send(Cancel(number))

    def _require_running(self) -> None:
        if self._stop_reason is not None:
            raise EngineStopped(self._stop_reason)

    def _session(self, key: str) -> _OpenSession:
        self._require_running()
        session = self._sessions.get(key)
        if session is None:
            raise SessionNotOpen(key)
        return session

    def _forget(self, number: int) -> _OpenSession | None:
        key = self._keys.pop(number, None)
        return None if key is None else self._sessions.pop(key)

    def _checked(self, tokens: Sequence[int]) -> tuple[int, ...]:
        # One bad id in a step would fail all sessions of the step.
        checked = tuple(tokens)
        for token in (min(checked), max(checked)) if checked else ():
            if not 0 <= token < self.info.vocab_size:
                raise TokenOutOfRange(token, self.info.vocab_size)
        return checked

    def _send(self, command: Command) -> None:
        self._engine_loop.inbox.put(command)

    async def _ask(
        self, key: str, command: Callable[[int], Command]
    ) -> Captured | Inspection | None:
        ticket = next(self._numbers)
        answer: asyncio.Future[Captured | Inspection | None] = self._asyncio_loop.create_future()
        self._tickets[ticket] = answer
        self._send(command(ticket))
        try:
            return await answer
        except _Refused as refused:
            raise self._translate(key, refused.refusal) from None
        finally:
            self._tickets.pop(ticket, None)

    def _translate(self, key: str, refusal: Refusal) -> Exception:
        match refusal.cause:
            case "no_free_slot":
                return NoFreeSlot(self._options.slots)
            case "state_refused":
                return StateRefused(refusal.reason)
            case "not_open":
                return SessionNotOpen(key)

    # Called in the thread.

    def _post(self, events: Sequence[Event]) -> None:
        self._asyncio_loop.call_soon_threadsafe(self._deliver, events)

    # Called on the asyncio loop.

    def _deliver(self, events: Sequence[Event]) -> None:
        for event in events:
            self._deliver_one(event)

    def _deliver_one(self, event: Event) -> None:
        match event:
            case Progress(number, progress):
                generation = self._generations.get(number)
                if generation is not None:
                    generation.push(progress)
                    if isinstance(progress, Finished):
                        del self._generations[number]
            case GenerationStopped(number, reason):
                stopped = self._generations.pop(number, None)
                if stopped is not None:
                    stopped.push(GenerationFailed(reason))
            case Absorbed(number, offset):
                if number in self._keys:
                    # A callback that raises must not take the other events with it.
                    session = self._sessions[self._keys[number]]
                    self._asyncio_loop.call_soon(session.on_absorbed, offset)
            case SessionFailed(number, reason):
                failed = self._forget(number)
                if failed is not None:
                    self._asyncio_loop.call_soon(failed.on_failed, reason)
            case Answer(ticket, result):
                future = self._tickets.pop(ticket, None)
                if future is not None and not future.done():
                    future.set_result(result)
            case Refusal(ticket):
                future = self._tickets.pop(ticket, None)
                if future is not None and not future.done():
                    future.set_exception(_Refused(event))
            case Loaded(info):
                self._stop_reason = None
                if not self._loaded.done():
                    self._loaded.set_result(info)
            case LoadFailed(error):
                self._stop_reason = "its model could not be loaded"
                if not self._loaded.done():
                    self._loaded.set_exception(error)
                self._ended.set()
            case Stopped(reason):
                self._abandon(reason)

    def _abandon(self, reason: str | None) -> None:
        """The thread has ended: whoever waits for it must hear so."""
        self._stop_reason = reason or "it was told to"
        if not self._loaded.done():
            self._loaded.set_exception(EngineStopped(self._stop_reason))
        for ticket in list(self._tickets):
            future = self._tickets.pop(ticket)
            if not future.done():
                future.set_exception(EngineStopped(self._stop_reason))
        for number in list(self._generations):
            self._generations.pop(number).push(GenerationFailed(self._stop_reason))
        for number in list(self._keys):
            session = self._forget(number)
            if session is not None and reason is not None:
                self._asyncio_loop.call_soon(session.on_failed, reason)
        self._ended.set()


class _Refused(Exception):
    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.reason)
        self.refusal = refusal


def _expect(kind: type[_Result], answer: Captured | Inspection | None) -> _Result:
    if not isinstance(answer, kind):
        raise TypeError(f"the engine answered {type(answer).__name__}, not {kind.__name__}")
    return answer
