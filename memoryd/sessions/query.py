"""Asking a session without changing it.

The question is read on a copy of the state; the copy is dropped. Before the first token leaves, the
owner asks Redis whether it still is the owner: one that slept through a takeover must not answer
from an old memory.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from enum import Enum

from lalte.text import Role
from memoryd.engine.errors import GenerationFailed
from memoryd.engine.generation import Generation
from memoryd.engine.messages import Finished, GenerateRequest, Started, Token
from memoryd.errors import BadArgument, MemorydError, PromptTooLong, StorageUnavailable
from memoryd.sessions.actor import Position, SessionActor
from memoryd.sessions.reply import Completion, FinishReason, Progress, ReplyEvent, ReplyText
from memoryd.sessions.services import ReplyOptions
from memoryd.sessions.text import TextState

PROGRESS_SECONDS = 0.25


class Freshness(Enum):
    """What a query must have read before it answers."""

    ACKED = "acked"
    ABSORBED = "absorbed"


@dataclass(frozen=True)
class Question:
    """A query as the caller put it; see `QueryRequest` in memory.proto."""

    text: bytes
    reply_prefix: bytes
    raw: bool
    freshness: Freshness
    min_offset: Position | None
    report_progress: bool
    allow_stale: bool
    options: ReplyOptions


async def query(actor: SessionActor, question: Question) -> AsyncGenerator[ReplyEvent]:
    """Progress if asked for, then text, then one Completion. Closing it frees the copy's lane.

    Raises BadArgument where there is nothing to read, GenerationChanged, OffsetBeyondEnd,
    InvalidUtf8Content, PromptTooLong, OwnershipLost, SessionNotFound, StorageUnavailable.
    """
    if question.min_offset is not None:
        actor.check_offset(question.min_offset)
    whole = question.freshness is Freshness.ACKED or (
        question.min_offset is not None and question.min_offset.tokens > actor.absorbed
    )
    target = actor.log.next if whole else actor.absorbed
    prompt = actor.services.framer.question(
        actor.log.text if target == actor.log.next else _state_inside(target),
        question.text,
        reply_prefix=question.reply_prefix,
        raw=question.raw,
    )
    if not prompt and not target:
        raise BadArgument(
            "question: nothing was appended yet, so give a question or a reply_prefix",
            field="question",
        )
    limit = actor.services.limits.max_prompt_tokens
    if len(prompt) > limit:
        raise PromptTooLong(
            f"the question and what goes with it are {len(prompt)} tokens, more than the {limit} "
            "allowed: append long text to the session and ask a shorter question",
            tokens=len(prompt),
            limit=limit,
        )
    fence = asyncio.ensure_future(_stale(actor, question.allow_stale))
    generation = actor.services.engine.generate(
        actor.engine_key,
        GenerateRequest(
            prompt=tuple(prompt),
            include_backlog=whole,
            sampling=question.options.sampling,
            stop_ids=actor.services.stop_ids,
        ),
    )
    try:
        async with aclosing(generation):
            if question.report_progress:
                async for progress in _progress(actor, generation, target):
                    yield progress
            async with aclosing(_answer(actor, generation, question.options, fence)) as answer:
                async for event in answer:
                    yield event
    finally:
        fence.cancel()


def _state_inside(offset: int) -> TextState:
    """The text state at an absorbed offset behind which more was journaled.

    Where turns begin is not kept for it, so a turn is taken to be open: closing one twice costs a
    few tokens, asking inside one would make the question part of it.
    """
    return TextState(started=True, role=Role.USER) if offset else TextState()


async def _stale(actor: SessionActor, allow_stale: bool) -> bool:
    """Whether the answer has to be marked as stale; raises where it must not be given."""
    try:
        await actor.fence()
    except StorageUnavailable:
        if not allow_stale:
            raise
        return True
    return False


async def _progress(
    actor: SessionActor, generation: Generation, target: int
) -> AsyncGenerator[Progress]:
    """How far the session is, a few times a second, until the copy is taken."""
    while not await generation.wait_started(PROGRESS_SECONDS):
        yield Progress(min(actor.absorbed, target), target)


async def _answer(
    actor: SessionActor,
    generation: Generation,
    options: ReplyOptions,
    fence: "asyncio.Future[bool]",
) -> AsyncGenerator[ReplyEvent]:
    reply = ReplyText(actor.services.tokenizer, options.stop)
    clock = ReplyClock()
    finish: FinishReason = "stop"
    stale: bool | None = None
    try:
        async for event in generation:
            clock.see(event)
            if isinstance(event, Token):
                if stale is None:
                    stale = await fence
                reply.push(event.id)
                if reply.settled:  # without text, too: markup shows none, and has an id
                    yield reply.take()
                if reply.stopped:
                    break
            elif isinstance(event, Finished):
                finish = event.reason
    except GenerationFailed as error:
        # A slot that was lost takes waiting replies with it; why it was lost is the better reason.
        await fence
        failure = MemorydError(f"no answer could be written: {error.reason}")
        raise actor.gone or failure from error
    if stale is None:
        stale = await fence
    reply.finish()
    rest = reply.take()
    if rest.text or rest.token_ids:
        yield rest
    yield clock.completion(
        finish, generation=actor.generation, seed=options.sampling.seed, stale=stale
    )


class ReplyClock:
    """What a reply has cost, from the events of its generation."""

    def __init__(self) -> None:
        self._started: Started | None = None
        self._tokens = 0
        self._started_at = self._first_at = self._last_at = 0.0

    def see(self, event: Started | Token | Finished) -> None:
        now = asyncio.get_running_loop().time()
        if isinstance(event, Started):
            self._started, self._started_at = event, now
        elif isinstance(event, Token):
            self._tokens += 1
            if self._tokens == 1:
                self._first_at = now
        self._last_at = now

    def completion(
        self,
        finish: FinishReason,
        *,
        generation: str,
        seed: int,
        stale: bool = False,
        replayed: bool = False,
    ) -> Completion:
        """The end of the reply; its offset is how much of the stream the copy had read."""
        started = self._started
        first = self._first_at if self._tokens else self._last_at
        return Completion(
            finish_reason=finish,
            offset=started.memory_tokens if started else 0,
            generation=generation,
            seed=seed,
            memory_tokens=started.memory_tokens if started else 0,
            prompt_tokens=started.prompt_tokens if started else 0,
            completion_tokens=self._tokens,
            wait_seconds=started.wait_seconds if started else 0.0,
            prefill_seconds=first - self._started_at if started else 0.0,
            decode_seconds=self._last_at - first,
            stale=stale,
            replayed=replayed,
        )
