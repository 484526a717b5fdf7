"""The engine's promises to sessions and replies, on a model that is a list of tokens."""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing
from typing import TYPE_CHECKING

import pytest

from memoryd.engine.engine import Engine
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
from memoryd.engine.messages import EngineOptions, Finished, Started
from tests.engine.list_model import (
    NOT_FINITE,
    POISON,
    VOCAB,
    ListRunner,
    Sessions,
    collect,
    continue_list,
    request,
    running,
    until,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
def options() -> EngineOptions:
    return EngineOptions(slots=4, lanes=3, threads=1, dtype="float32", prefill_tokens_per_step=5)


@pytest.fixture
def runner(options: EngineOptions) -> ListRunner:
    return ListRunner(options)


@pytest.fixture
async def sessions(runner: ListRunner, options: EngineOptions) -> AsyncIterator[Sessions]:
    async with running(runner, options) as sessions:
        yield sessions


async def all_free(sessions: Sessions, lanes: int = 0) -> None:
    await until(lambda: sessions.engine.stats().lanes_used == lanes, f"{lanes} lanes to be used")


async def test_fed_tokens_are_absorbed_in_order_and_in_whole_chunks(sessions: Sessions) -> None:
    await sessions.open("a")
    for start in range(0, 30, 3):
        sessions.engine.feed("a", range(100 + start, 103 + start))
    await sessions.absorbed("a", 28)
    captured = await sessions.engine.capture("a")
    assert captured.offset == 28
    assert bytes(captured.arrays["tokens"].data)[:8] == b"\x64\0\0\0\x65\0\0\0"
    stats = sessions.engine.stats()
    assert (stats.absorbed_tokens, stats.backlog_tokens, stats.slots_used) == (28, 2, 1)


async def test_a_captured_state_goes_on_in_another_slot(sessions: Sessions) -> None:
    await sessions.open("a", range(100, 112))
    await sessions.absorbed("a", 12)
    captured = await sessions.engine.capture("a")
    await sessions.open("b", range(112, 116), offset=12, arrays=captured.arrays)
    sessions.engine.feed("a", range(112, 116))
    await sessions.absorbed("a", 16)
    await sessions.absorbed("b", 16)
    one, other = await sessions.engine.capture("a"), await sessions.engine.capture("b")
    assert one.checksum == other.checksum


async def test_a_reply_reads_the_backlog_once_and_then_the_prompt(
    sessions: Sessions, runner: ListRunner
) -> None:
    stream = list(range(100, 130))
    await sessions.open("a", stream)
    started, tokens, finished = await collect(sessions.engine.generate("a", request((1, 2))))
    assert runner.read_before_first_draw == [(*stream, 1, 2)]
    assert (started.memory_tokens, started.prompt_tokens) == (30, 4)
    assert tokens == continue_list([*stream, 1, 2], 5)
    assert isinstance(finished, Finished)
    assert finished.reason == "length"
    assert sessions.engine.stats().generated_tokens == 5
    await sessions.absorbed("a", 28)


async def test_what_is_fed_later_stays_out_of_a_waiting_reply(
    sessions: Sessions, runner: ListRunner
) -> None:
    runner.go.clear()
    await sessions.open("a")
    replies = []
    for start, end in ((100, 110), (110, 111), (111, 117)):
        sessions.engine.feed("a", range(start, end))
        replies.append(sessions.engine.generate("a", request((1,), tokens=3)))
    sessions.engine.feed("a", range(117, 150))
    runner.go.set()
    await asyncio.gather(*(collect(reply) for reply in replies))
    assert runner.read_before_first_draw == [(*range(100, end), 1) for end in (110, 111, 117)]
    await sessions.absorbed("a", 48)


async def test_without_the_backlog_a_reply_sees_what_is_absorbed(
    sessions: Sessions, runner: ListRunner
) -> None:
    await sessions.open("a", range(100, 110))
    await sessions.absorbed("a", 8)
    started, _, _ = await collect(sessions.engine.generate("a", request((1,), backlog=False)))
    assert started.memory_tokens == 8
    assert runner.read_before_first_draw == [(*range(100, 108), 1)]


async def test_a_long_prompt_is_read_in_pieces_between_decode_steps(
    sessions: Sessions, runner: ListRunner
) -> None:
    await sessions.open("a")
    prompt = range(200, 232)
    _, tokens, _ = await collect(sessions.engine.generate("a", request(prompt)))
    assert runner.pieces == [5, 5, 5, 5, 5, 5, 2]
    assert tokens == continue_list(prompt, 5)


async def test_many_replies_at_once_are_those_of_each_alone(sessions: Sessions) -> None:
    await sessions.open("a", range(100, 110))
    await sessions.open("b", range(300, 317))
    streams = {"a": list(range(100, 110)), "b": list(range(300, 317))}
    asked = [
        (key, [prompt, prompt + 1][: 1 + prompt % 2], 1 + prompt % 7)
        for prompt in range(1, 12)
        for key in "ab"
    ]
    results = await asyncio.gather(
        *(
            collect(sessions.engine.generate(key, request(prompt, tokens=count)))
            for key, prompt, count in asked
        )
    )
    for (key, prompt, count), (_, tokens, _) in zip(asked, results, strict=True):
        assert tokens == continue_list([*streams[key], *prompt], count)
    await all_free(sessions)


async def test_the_stop_token_ends_a_reply_and_is_not_part_of_it(sessions: Sessions) -> None:
    await sessions.open("a")
    expected = continue_list([1], 4)
    reply = sessions.engine.generate("a", request((1,), tokens=9, stop=[expected[3]]))
    _, tokens, finished = await collect(reply)
    assert tokens == expected[:3]
    assert isinstance(finished, Finished)
    assert finished.reason == "stop"


async def test_a_continued_reply_counts_on_behind_what_was_drawn(
    sessions: Sessions, runner: ListRunner
) -> None:
    await sessions.open("a")
    whole = continue_list([1], 5)
    asked = request((1, *whole[:3]), tokens=5, drawn=whole[:3])
    _, tokens, _ = await collect(sessions.engine.generate("a", asked))
    assert tokens == whole[3:]
    assert [draw.position for draw in runner.draws] == [3, 4]
    await collect(sessions.engine.generate("a", request((1,), tokens=2, drawn=(500,))))
    assert list(runner.draws[-1].history)[:2] == [1, 500]
    started, tokens, finished = await collect(
        sessions.engine.generate("a", request((1,), tokens=3, drawn=whole[:3]))
    )
    assert (tokens, started.prompt_tokens) == ([], 0)
    assert isinstance(finished, Finished)
    assert finished.reason == "length"


async def test_nothing_to_read_fails_and_says_so(sessions: Sessions) -> None:
    await sessions.open("a")
    with pytest.raises(GenerationFailed, match="nothing to read"):
        await collect(sessions.engine.generate("a", request(())))


async def test_a_reply_without_prompt_goes_on_right_behind_the_stream(sessions: Sessions) -> None:
    await sessions.open("a")
    for end in range(1, 10):
        sessions.engine.feed("a", [end])
        started, tokens, _ = await collect(sessions.engine.generate("a", request(())))
        assert (started.memory_tokens, started.prompt_tokens) == (end, end % 4)
        assert tokens == continue_list(range(1, end + 1), 5)


@pytest.mark.parametrize("when", ["waiting", "prefilling", "decoding"])
async def test_a_cancelled_reply_frees_its_lane(
    sessions: Sessions, runner: ListRunner, when: str
) -> None:
    await sessions.open("a", range(100, 110))
    await sessions.absorbed("a", 8)
    if when == "waiting":
        others = [sessions.engine.generate("a", request((n,), tokens=10**6)) for n in range(1, 4)]
        for other in others:
            assert isinstance(await anext(other), Started)
            await anext(other)
        reply = sessions.engine.generate("a", request((9,)))
        reply.cancel()
        await all_free(sessions, 3)
        sessions.engine.feed("a", range(110, 150))
        await sessions.absorbed("a", 48)
        for other in others:
            await other.aclose()
    else:
        prompt = range(200, 900) if when == "prefilling" else (1,)
        reply = sessions.engine.generate("a", request(prompt, tokens=10**6))
        async with aclosing(reply):
            assert isinstance(await anext(reply), Started)
            if when == "decoding":
                await anext(reply)
        reply.cancel()
    await all_free(sessions)
    assert [event async for event in reply] == []
    _, tokens, _ = await collect(sessions.engine.generate("a", request((1,), tokens=2)))
    assert len(tokens) == 2


async def test_a_cancel_wakes_whoever_waits_for_the_next_token(
    sessions: Sessions, runner: ListRunner
) -> None:
    await sessions.open("a")
    runner.go.clear()
    reply = sessions.engine.generate("a", request())
    await anext(reply)
    waiter = asyncio.ensure_future(collect_rest(reply))
    await asyncio.sleep(0)
    reply.cancel()
    assert await waiter == []


async def test_whoever_waits_for_the_start_hears_of_start_failure_and_cancel(
    sessions: Sessions, runner: ListRunner
) -> None:
    await sessions.open("a")
    runner.go.clear()
    sessions.engine.feed("a", range(100, 104))
    reply = sessions.engine.generate("a", request((1,)))
    assert not await reply.wait_started(0.01)
    runner.go.set()
    assert await reply.wait_started(60)
    assert len(await collect_rest(reply)) == 7
    failing = sessions.engine.generate("a", request((POISON,)))
    assert await failing.wait_started(60)
    runner.go.clear()
    sessions.engine.feed("a", range(104, 108))
    cancelled = sessions.engine.generate("a", request((1,)))
    cancelled.cancel()
    assert await cancelled.wait_started(60)
    assert await collect_rest(cancelled) == []


async def collect_rest(reply: AsyncIterator[object]) -> list[object]:
    return [event async for event in reply]


async def test_a_failed_absorb_step_loses_only_its_sessions(
    sessions: Sessions, runner: ListRunner, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    await sessions.open("good", range(100, 108))
    await sessions.absorbed("good", 8)
    await sessions.open("bad", range(200, 208))
    await sessions.absorbed("bad", 8)
    running_reply = sessions.engine.generate("bad", request(backlog=False, tokens=500))
    await anext(running_reply)
    sessions.engine.feed("bad", [1, 2, POISON])
    doomed = sessions.engine.generate("bad", request((1,)))
    sessions.engine.feed("bad", [4])
    doomed_too = sessions.engine.generate("bad", request((1,)))
    doomed.cancel()
    with pytest.raises(GenerationFailed, match="poisoned"):
        await collect(doomed_too)
    await until(lambda: "bad" in sessions.failures, "the failure to be told")
    assert "poisoned" in sessions.failures["bad"]
    with pytest.raises(SessionNotOpen):
        sessions.engine.feed("bad", [1])
    await sessions.engine.close("bad")
    sessions.engine.feed("good", range(108, 112))
    await sessions.absorbed("good", 12)
    assert len(await collect_rest(running_reply)) == 501
    await sessions.open("bad", [1, 2, 3, 4])
    await sessions.absorbed("bad", 4)
    assert sessions.failures == {}
    assert sessions.engine.stats().slots_used == 2


async def test_a_failed_prompt_loses_only_its_reply(sessions: Sessions) -> None:
    await sessions.open("a", range(100, 104))
    other = asyncio.ensure_future(collect(sessions.engine.generate("a", request((1,), tokens=50))))
    with pytest.raises(GenerationFailed, match="poisoned"):
        await collect(sessions.engine.generate("a", request((1, POISON))))
    assert (await other)[1] == continue_list([*range(100, 104), 1], 50)
    await all_free(sessions)


async def test_a_failed_decode_step_loses_its_replies_and_no_session(
    sessions: Sessions, runner: ListRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    await sessions.open("a", range(100, 104))
    with monkeypatch.context() as patch:
        patch.setattr(runner, "decode", lambda *_: 1 / 0)
        with pytest.raises(GenerationFailed, match="ZeroDivisionError"):
            await collect(sessions.engine.generate("a", request()))
    _, tokens, _ = await collect(sessions.engine.generate("a", request()))
    assert len(tokens) == 5
    assert sessions.failures == {}


async def test_a_failed_copy_loses_its_reply_and_leaves_the_engine_running(
    sessions: Sessions, runner: ListRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    await sessions.open("a", range(100, 104))
    await sessions.absorbed("a", 4)
    with monkeypatch.context() as patch:
        patch.setattr(runner, "copy_to_lane", lambda *_: 1 / 0)
        replies = [sessions.engine.generate("a", request()) for _ in range(3)]
        for reply in replies:
            with pytest.raises(GenerationFailed, match="ZeroDivisionError"):
                await collect(reply)
    assert len((await collect(sessions.engine.generate("a", request())))[1]) == 5


async def test_logits_that_are_not_finite_fail_their_reply_alone(sessions: Sessions) -> None:
    await sessions.open("a")
    good = asyncio.ensure_future(collect(sessions.engine.generate("a", request((1,)))))
    with pytest.raises(GenerationFailed, match="not finite"):
        await collect(sessions.engine.generate("a", request((NOT_FINITE,))))
    assert (await good)[1] == continue_list([1], 5)


async def test_a_state_that_is_refused_takes_no_slot(sessions: Sessions) -> None:
    await sessions.open("a", range(100, 108))
    await sessions.absorbed("a", 8)
    arrays = (await sessions.engine.capture("a")).arrays
    for wrong in (arrays, {}):
        with pytest.raises(StateRefused):
            await sessions.open("b", offset=12, arrays=wrong)
    assert sessions.engine.stats().slots_used == 1
    with pytest.raises(SessionNotOpen):
        sessions.engine.feed("b", [1])
    await sessions.open("b", offset=8, arrays=arrays)


async def test_a_state_that_is_not_finite_is_not_handed_out(sessions: Sessions) -> None:
    await sessions.open("a", [NOT_FINITE, 1, 2, 3])
    await sessions.absorbed("a", 4)
    with pytest.raises(StateRefused, match="not finite"):
        await sessions.engine.capture("a")


async def test_slots_are_refused_when_all_are_taken_and_given_again(sessions: Sessions) -> None:
    for key in "abcd":
        await sessions.open(key)
    with pytest.raises(NoFreeSlot):
        await sessions.open("e")
    with pytest.raises(SessionAlreadyOpen):
        await sessions.open("a")
    await sessions.engine.close("a")
    await sessions.engine.close("a")
    await sessions.open("e", [1, 2, 3, 4])
    await sessions.absorbed("e", 4)


async def test_a_session_reopened_at_once_starts_anew(sessions: Sessions) -> None:
    await sessions.open("a", range(100, 140))
    closing = asyncio.ensure_future(sessions.engine.close("a"))
    await asyncio.sleep(0)
    await sessions.open("a", range(200, 204))
    await closing
    await sessions.absorbed("a", 4)
    assert (await sessions.engine.capture("a")).offset == 4


async def test_closing_fails_waiting_replies_and_spares_running_ones(
    sessions: Sessions, runner: ListRunner
) -> None:
    await sessions.open("a", range(100, 104))
    running_replies = [sessions.engine.generate("a", request((n,), tokens=2000)) for n in (1, 2, 3)]
    for reply in running_replies:
        await anext(reply)
    waiting = sessions.engine.generate("a", request())
    await sessions.engine.close("a")
    with pytest.raises(GenerationFailed, match="closed"):
        await collect(waiting)
    for reply in running_replies:
        assert len(await collect_rest(reply)) == 2001


async def test_bad_tokens_are_refused_before_they_reach_a_step(sessions: Sessions) -> None:
    await sessions.open("a")
    for bad in (-1, VOCAB):
        with pytest.raises(TokenOutOfRange):
            sessions.engine.feed("a", [1, bad])
        with pytest.raises(TokenOutOfRange):
            sessions.engine.generate("a", request((1, bad)))
        with pytest.raises(TokenOutOfRange):
            sessions.engine.generate("a", request((1,), drawn=(bad,)))
    assert sessions.engine.stats().backlog_tokens == 0


async def test_only_layers_that_keep_tokens_can_be_inspected(sessions: Sessions) -> None:
    await sessions.open("a")
    assert (await sessions.engine.inspect("a", [1], 5)).offset == 0
    with pytest.raises(LayerKeepsNoTokens):
        await sessions.engine.inspect("a", [0], 5)


async def test_a_cancelled_open_gives_its_slot_back(sessions: Sessions, runner: ListRunner) -> None:
    await sessions.open("a")
    runner.go.clear()
    sessions.engine.feed("a", [1, 2, 3, 4])
    opening = asyncio.ensure_future(sessions.open("b"))
    await asyncio.sleep(0)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    runner.go.set()
    await sessions.absorbed("a", 4)
    await until(lambda: sessions.engine.stats().slots_used == 1, "the slot to come back")
    await sessions.open("b")


async def test_stop_fails_replies_and_refuses_what_comes_after(
    runner: ListRunner, options: EngineOptions
) -> None:
    async with running(runner, options) as sessions:
        await sessions.open("a", range(100, 104))
        reply = sessions.engine.generate("a", request(tokens=10**6))
        await anext(reply)
        await sessions.engine.stop()
        with pytest.raises(GenerationFailed, match="stopping"):
            await collect_rest(reply)
        with pytest.raises(EngineStopped):
            sessions.engine.feed("a", [1])
        with pytest.raises(EngineStopped):
            await sessions.open("b")
        await sessions.engine.close("a")
        assert sessions.failures == {}


async def test_books_that_contradict_the_slots_stop_the_engine_loudly(
    sessions: Sessions, runner: ListRunner
) -> None:
    await sessions.open("a", range(100, 104))
    await sessions.absorbed("a", 4)
    runner.go.clear()
    reply = sessions.engine.generate("a", request(backlog=False))
    await anext(reply)
    runner.lost_tokens = 1  # while it works: what is idle looks at its books
    runner.go.set()
    assert len(await collect_rest(reply)) == 6
    await until(lambda: "a" in sessions.failures, "the failure to be told")
    assert "stands at 3" in sessions.failures["a"]
    with pytest.raises(EngineStopped, match="stands at 3"):
        await sessions.open("b")


async def test_a_broken_loop_fails_its_replies_and_sessions(
    sessions: Sessions, runner: ListRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    await sessions.open("a")
    monkeypatch.setattr(runner, "move_lane", lambda *_: 1 / 0)
    replies = [sessions.engine.generate("a", request((n,), tokens=10**6)) for n in (1, 2)]
    for reply in replies:
        await anext(reply)
        await anext(reply)
    replies[0].cancel()
    with pytest.raises(GenerationFailed, match="ZeroDivisionError"):
        await collect_rest(replies[1])
    await until(lambda: "a" in sessions.failures, "the failure to be told")


async def test_a_failed_load_comes_out_of_start(options: EngineOptions) -> None:
    def load() -> ListRunner:
        raise FileNotFoundError("no weights")

    engine = Engine(load, options)
    with pytest.raises(FileNotFoundError, match="no weights"):
        await engine.start()
    await engine.stop()


async def test_a_callback_that_raises_takes_nothing_with_it(
    sessions: Sessions, caplog: pytest.LogCaptureFixture
) -> None:
    def explode(_: int) -> None:
        raise ValueError("in a callback")

    caplog.set_level(logging.CRITICAL)
    await sessions.engine.open("a", on_absorbed=explode, on_failed=lambda _: None)
    sessions.engine.feed("a", range(100, 104))
    _, tokens, _ = await collect(sessions.engine.generate("a", request((1,))))
    assert tokens == continue_list([*range(100, 104), 1], 5)


def test_options_that_cannot_work_are_refused() -> None:
    with pytest.raises(ValueError, match="lanes is 0"):
        EngineOptions(slots=1, lanes=0)
    with pytest.raises(ValueError, match="threads is -1"):
        EngineOptions(slots=1, lanes=1, threads=-1)
