"""Chat: a user turn and its reply, both remembered.

The turn is journaled before the reply begins, the reply in small groups before they are sent. What
a caller has seen is therefore always in the journal, and a retry with the same request id goes on
where the journal ends.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace

from lalte.text import Role
from memoryd.engine.errors import GenerationFailed
from memoryd.engine.generation import Generation
from memoryd.engine.messages import Finished, GenerateRequest, Token
from memoryd.errors import MemorydError
from memoryd.sessions.actor import CHAT_WRITER, SessionActor
from memoryd.sessions.archive import Closed, Event, Replied, Said
from memoryd.sessions.chat import ChatRecord
from memoryd.sessions.log import Change, SessionLog
from memoryd.sessions.query import PROGRESS_SECONDS, ReplyClock
from memoryd.sessions.reply import Delta, FinishReason, Progress, ReplyEvent, ReplyText
from memoryd.sessions.services import ReplyOptions
from memoryd.sessions.text import OPENED_REPLY, Piece

GROUP_TOKENS = 4  # journaled and sent together, after a first group of one


@dataclass(frozen=True)
class Exchange:
    """A Chat call as the caller made it."""

    request_id: str
    message: bytes
    report_progress: bool
    options: ReplyOptions


_Build = Callable[[SessionLog], Change]


class _Chat:
    """One running exchange. `out` takes events, and at the end None or an error."""

    def __init__(self, actor: SessionActor, exchange: Exchange) -> None:
        self.actor = actor
        self.exchange = exchange
        self.out: asyncio.Queue[ReplyEvent | MemorydError | None] = asyncio.Queue()
        self.writer = CHAT_WRITER + exchange.request_id
        self._cancelled = False
        self._generation: Generation | None = None

    @property
    def request_id(self) -> str:
        return self.exchange.request_id

    def cancel(self) -> None:
        """The caller went away: what was sent is kept, and nothing more is written.

        The turn stays open, as after a death of the daemon. A broken connection looks the same as
        a change of mind, so the same request id goes on with the reply; `cancel_chat`, the next
        writer, or the turn's timeout closes it.
        """
        self._cancelled = True
        if self._generation is not None:
            self._generation.cancel()

    async def run(self) -> None:
        try:
            await self.actor.hold(self)
            try:
                await self._exchange()
            finally:
                self.actor.let_go(self)
            self.out.put_nowait(None)
        except MemorydError as error:
            self.out.put_nowait(error)
        except GenerationFailed as error:
            failure = MemorydError(f"the reply broke off: {error.reason}; retry with the same id")
            self.out.put_nowait(self.actor.gone or failure)
        except BaseException:
            self.out.put_nowait(MemorydError("the reply broke off inside the daemon; see its log"))
            raise

    async def _exchange(self) -> None:
        log, exchange = self.actor.log, self.exchange
        record = log.chats.get(exchange.request_id, exchange.message)
        replayed = record is not None
        if record is None:
            record = log.chats.new(exchange.message, exchange.options.sampling.seed)
            if self._cancelled:
                record = replace(record, finish="cancelled")
            else:
                await self._write(self._opening(record))
        elif record.text:
            self.out.put_nowait(Delta(record.text, record.reply))
        if record.finish is None and log.text.writer != self.writer:
            record = replace(record, finish="cancelled")
        clock = ReplyClock()
        if record.finish is None:
            record = await self._reply(record, clock)
        self.out.put_nowait(
            replace(
                clock.completion(
                    record.finish or "cancelled",
                    generation=self.actor.generation,
                    seed=record.seed,
                    replayed=replayed,
                ),
                offset=log.next,
                completion_tokens=len(record.reply),
            )
        )

    def _opening(self, record: ChatRecord) -> _Build:
        """The user's turn and the start of the reply's."""
        framer, now_ms = self.actor.services.framer, self.actor.services.now_ms()

        def build(log: SessionLog) -> Change:
            turn = Piece(Role.USER, self.exchange.message)
            abandoned = log.text.writer.startswith(CHAT_WRITER)
            tokens, text = framer.append(
                log.text, [turn], writer=self.writer, now_ms=now_ms, abandoned=abandoned
            )
            opening, text = framer.open_reply(text, writer=self.writer, now_ms=now_ms)
            chats = log.chats.put(self.exchange.request_id, record)
            said = (Said(turn, self.writer), Said(OPENED_REPLY, self.writer))
            return Change([*tokens, *opening], text, log.writers, chats, said)

        return build

    async def _reply(self, record: ChatRecord, clock: ReplyClock) -> ChatRecord:
        """Writes the reply from where the record ends, and closes its turn unless cancelled."""
        actor, options = self.actor, self.exchange.options
        reply = ReplyText(actor.services.tokenizer, options.stop)
        finish: FinishReason = "stop"
        sampling = replace(options.sampling, seed=record.seed)
        self._generation = generation = actor.services.engine.generate(
            actor.engine_key,
            GenerateRequest(
                prompt=(),
                include_backlog=True,
                sampling=sampling,
                stop_ids=actor.services.stop_ids,
                drawn=record.reply,
            ),
        )
        if self._cancelled:
            generation.cancel()
        async with aclosing(generation):
            target = actor.log.next
            while self.exchange.report_progress and not await generation.wait_started(
                PROGRESS_SECONDS
            ):
                self.out.put_nowait(Progress(min(actor.absorbed, target), target))
            async for event in generation:
                clock.see(event)
                if isinstance(event, Token):
                    reply.push(event.id)
                    group = GROUP_TOKENS if record.reply else 1
                    if reply.settled and reply.waiting >= group:
                        record = await self._send(record, reply.take())
                    if reply.stopped:
                        break
                elif isinstance(event, Finished):
                    finish = event.reason
        if self._cancelled:
            return record
        reply.finish()
        rest = reply.take()
        if reply.stopped:
            rest = Delta(rest.text, tuple(actor.services.framer.encode(rest.text)))
        return await self._send(record, rest, finish)

    async def _send(
        self, record: ChatRecord, delta: Delta, finish: FinishReason | None = None
    ) -> ChatRecord:
        """Journals the next tokens of the reply, then sends them; `finish` closes the turn."""
        framer, now_ms = self.actor.services.framer, self.actor.services.now_ms()
        grown = replace(record.grown(delta.token_ids, delta.text), finish=finish)

        def build(log: SessionLog) -> Change:
            text = replace(log.text, touched_ms=now_ms)
            closing: list[int] = []
            events: list[Event] = []
            if delta.token_ids:
                events.append(Replied(delta.text, delta.token_ids))
            if finish is not None:
                closing, text = framer.close(text)
                events.append(Closed())
            chats = log.chats.put(self.exchange.request_id, grown)
            tokens = [*delta.token_ids, *closing]
            return Change(tokens, text, log.writers, chats, tuple(events))

        await self._write(build)
        if delta.text:
            self.out.put_nowait(delta)
        return grown

    async def _write(self, build: _Build) -> None:
        await self.actor.compose(build, holder=self)


async def chat(actor: SessionActor, exchange: Exchange) -> AsyncGenerator[ReplyEvent]:
    """Progress if asked for, then text that is journaled already, then one Completion.

    Closing it early ends the reply: what was sent is kept. Raises
    RequestReused, InvalidUtf8Content, TurnOpen, StorageFull, StorageUnavailable, OwnershipLost,
    SessionNotFound, AcknowledgedLost.
    """
    running = _Chat(actor, exchange)
    task = actor.spawn(running.run())
    actor.chats.add(running)
    try:
        while (event := await running.out.get()) is not None:
            if isinstance(event, MemorydError):
                raise event
            yield event
    finally:
        actor.chats.discard(running)
        if not task.done():
            running.cancel()


async def cancel_chat(actor: SessionActor, request_id: str) -> None:
    """Ends an exchange for good: its reply, and its turn if that is open still.

    Raises what appends raise.
    """
    for running in tuple(actor.chats):
        if running.request_id == request_id:
            running.cancel()

    def build(log: SessionLog) -> Change | None:
        if log.text.writer != CHAT_WRITER + request_id:
            return None
        tokens, text = actor.services.framer.close(log.text)
        chats = log.chats
        if (record := chats.records.get(request_id)) is not None:
            chats = chats.put(request_id, replace(record, finish="cancelled"))
        return Change(tokens, text, log.writers, chats, (Closed(),))

    await actor.compose(build)
