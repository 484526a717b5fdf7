"""The engine's promises on a real, tiny model: the state's bits and the reply's tokens."""

from __future__ import annotations

import asyncio
import random
import secrets
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import pytest
import torch

from lalte.checkpoints.load import load_model
from lalte.checkpoints.tiny import write_tiny_model
from lalte.state import Array, StateSlots, nbytes
from lalte_kernels import ROUNDING_REVISION
from memoryd.engine.engine import Engine
from memoryd.engine.errors import GenerationFailed, StateRefused
from memoryd.engine.messages import EngineOptions, GenerateRequest, Sampling
from memoryd.engine.runner import ModelRunner, _is_finite
from tests.engine.list_model import Sessions, collect, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from lalte.checkpoints.load import LoadedModel

CHUNK = 8
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny") / "model"
    write_tiny_model(folder)
    return folder


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def rng() -> random.Random:
    seed = secrets.randbits(32)
    print(f"seed {seed}")  # noqa: T201
    return random.Random(seed)


@asynccontextmanager
async def running(folder: Path, dtype: str = "float32", **changes: int) -> AsyncIterator[Sessions]:
    options = EngineOptions(slots=4, lanes=3, threads=1, dtype=dtype)  # type: ignore[arg-type]
    options = replace(options, **changes)
    engine = Engine(partial(ModelRunner.load, folder, options), options)
    await engine.start()
    try:
        yield Sessions(engine, {}, {})
    finally:
        await engine.stop()


def stream(rng: random.Random, length: int) -> list[int]:
    return [rng.randrange(250) for _ in range(length)]


def greedy(prompt: list[int], count: int, **changes: float) -> GenerateRequest:
    sampling = Sampling(max_tokens=count, **changes)  # type: ignore[arg-type]
    return GenerateRequest(tuple(prompt), include_backlog=True, sampling=sampling)


def write_alone(loaded: LoadedModel, tokens: list[int], count: int) -> list[int]:
    """Greedy continuation by the model itself, the whole stream read at once."""
    slots = StateSlots.allocate(loaded.config, 1, dtype=torch.float32)
    with torch.inference_mode():
        logits = loaded.model.extend(torch.tensor(tokens), slots.view(0))
        written = [int(logits.argmax())]
        while len(written) < count:
            logits = loaded.model.step(torch.tensor(written[-1:]), slots.view(0))[0]
            written.append(int(logits.argmax()))
    return written


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
async def test_the_state_has_no_trace_of_cuts_and_company(
    folder: Path, dtype: str, rng: random.Random
) -> None:
    length = 40 * CHUNK
    streams = {key: stream(rng, length) for key in "abc"}
    loaded = load_model(folder, dtype=DTYPES[dtype])
    expected = {}
    with torch.inference_mode():
        for key, tokens in streams.items():
            slots = StateSlots.allocate(loaded.config, 1, dtype=DTYPES[dtype])
            loaded.model.absorb(torch.tensor([tokens]), [slots.view(0)])
            expected[key] = slots.checksum(0)
    async with running(folder, dtype) as sessions:
        for key in streams:
            await sessions.open(key)
        left = {key: list(tokens) for key, tokens in streams.items()}
        while any(left.values()):
            key = rng.choice([key for key, tokens in left.items() if tokens])
            size = rng.randrange(40)
            sessions.engine.feed(key, left[key][:size])
            del left[key][:size]
            if rng.random() < 0.2:
                reply = sessions.engine.generate(key, greedy([1], 3))
                if rng.random() < 0.5:
                    await collect(reply)
                else:
                    reply.cancel()
            await asyncio.sleep(0)
        for key in streams:
            await sessions.absorbed(key, length)
            assert (await sessions.engine.capture(key)).checksum == expected[key]


async def test_a_reply_is_that_of_the_whole_stream_read_at_once(
    folder: Path, rng: random.Random
) -> None:
    loaded = load_model(folder, dtype=torch.float32)
    async with running(folder, prefill_tokens_per_step=7) as sessions:
        for length in (0, 3, CHUNK, 5 * CHUNK + 5):
            tokens, prompt = stream(rng, length), stream(rng, 20)
            key = str(length)
            await sessions.open(key, tokens)
            started, written, _ = await collect(sessions.engine.generate(key, greedy(prompt, 20)))
            assert started.memory_tokens == length
            assert started.prompt_tokens == length % CHUNK + 20
            assert written == write_alone(loaded, tokens + prompt, 20)


async def test_a_reply_without_prompt_goes_on_right_behind_the_stream(
    folder: Path, rng: random.Random
) -> None:
    loaded = load_model(folder, dtype=torch.float32)
    tokens = stream(rng, 3 * CHUNK)
    async with running(folder) as sessions:
        await sessions.open("a")
        for start in range(0, len(tokens), 4):
            sessions.engine.feed("a", tokens[start : start + 4])
            _, written, _ = await collect(sessions.engine.generate("a", greedy([], 9)))
            assert written == write_alone(loaded, tokens[: start + 4], 9)
            # A lane that moves takes along what it starts from.
            replies = [
                sessions.engine.generate("a", greedy(prompt, count))
                for prompt, count in (([1], 3), ([2], 9), ([], 9))
            ]
            results = await asyncio.gather(*(collect(reply) for reply in replies))
            assert results[2][1] == written


async def test_concurrent_replies_equal_those_alone_and_change_no_state(
    folder: Path, rng: random.Random
) -> None:
    loaded = load_model(folder, dtype=torch.float32)
    tokens = {key: stream(rng, length) for key, length in (("a", 50), ("b", 77))}
    async with running(folder) as sessions:
        for key, fed in tokens.items():
            await sessions.open(key, fed)
            await sessions.absorbed(key, len(fed) // CHUNK * CHUNK)
        before = {key: (await sessions.engine.capture(key)).checksum for key in tokens}
        asked = [
            (rng.choice("ab"), stream(rng, rng.randrange(1, 20)), rng.randrange(1, 25))
            for _ in range(12)
        ]
        results = await asyncio.gather(
            *(collect(sessions.engine.generate(k, greedy(p, n))) for k, p, n in asked)
        )
        for (key, prompt, count), (_, written, _) in zip(asked, results, strict=True):
            assert written == write_alone(loaded, tokens[key] + prompt, count)
        for key in tokens:
            assert (await sessions.engine.capture(key)).checksum == before[key]


async def test_a_seeded_reply_is_the_same_beside_others_and_when_continued(
    folder: Path, rng: random.Random
) -> None:
    tokens, prompt = stream(rng, 30), stream(rng, 5)
    # A seed past the signed range, as callers without a sign may send.
    drawing = greedy(prompt, 16, temperature=1.0, seed=2**63 + 5, repetition_penalty=1.2)
    async with running(folder) as sessions:
        await sessions.open("a", tokens)
        _, alone, _ = await collect(sessions.engine.generate("a", drawing))
        beside = await asyncio.gather(
            *(collect(sessions.engine.generate("a", drawing)) for _ in range(3))
        )
        assert [written for _, written, _ in beside] == [alone] * 3
        continued = replace(drawing, prompt=(*prompt, *alone[:6]), drawn=tuple(alone[:6]))
        _, rest, _ = await collect(sessions.engine.generate("a", continued))
        assert rest == alone[6:]
        other = replace(drawing, sampling=replace(drawing.sampling, seed=6))
        assert (await collect(sessions.engine.generate("a", other)))[1] != alone


async def test_a_captured_state_goes_on_bit_equal_in_another_engine(
    folder: Path, rng: random.Random
) -> None:
    tokens = stream(rng, 30 * CHUNK)
    half = 15 * CHUNK
    async with running(folder, "bfloat16") as sessions:
        await sessions.open("a", tokens[:half])
        await sessions.absorbed("a", half)
        captured = await sessions.engine.capture("a")
        sessions.engine.feed("a", tokens[half:])
        await sessions.absorbed("a", len(tokens))
        whole = await sessions.engine.capture("a")
    async with running(folder, "bfloat16") as sessions:
        await sessions.open("z", tokens[half:], offset=half, arrays=captured.arrays)
        await sessions.absorbed("z", len(tokens))
        assert (await sessions.engine.capture("z")).checksum == whole.checksum


async def test_altered_states_are_refused_and_the_slot_stays_free(
    folder: Path, rng: random.Random
) -> None:
    async with running(folder) as sessions:
        await sessions.open("a", stream(rng, 10 * CHUNK))
        await sessions.absorbed("a", 10 * CHUNK)
        captured = await sessions.engine.capture("a")
        arrays = dict(captured.arrays)
        name = next(n for n, array in arrays.items() if array.dtype == "float32")
        infinite = bytes.fromhex("0000807f") + bytes(arrays[name].data)[4:]
        broken = [
            {n: array for n, array in arrays.items() if n != name},
            {**arrays, name: replace(arrays[name], data=infinite)},  # type: ignore[type-var]
            {**arrays, name: replace(arrays[name], data=bytes(arrays[name].data)[:-1])},  # type: ignore[type-var]
            {**arrays, name: replace(arrays[name], dtype="complex64")},  # type: ignore[type-var]
        ]
        for wrong in broken:
            with pytest.raises(StateRefused):
                await sessions.open("b", offset=10 * CHUNK, arrays=wrong)
        for offset in (10 * CHUNK + 1, -CHUNK):
            with pytest.raises(StateRefused):
                await sessions.open("b", offset=offset, arrays=arrays)
        assert sessions.engine.stats().slots_used == 1
        await sessions.open("b", offset=10 * CHUNK, arrays=arrays)
        assert (await sessions.engine.capture("b")).checksum == captured.checksum


async def test_a_state_that_became_infinite_is_not_handed_out(
    folder: Path, rng: random.Random
) -> None:
    for dtype in DTYPES:
        options = EngineOptions(slots=1, lanes=1, threads=1, dtype=dtype)  # type: ignore[arg-type]
        runner = ModelRunner.load(folder, options)
        for parameter in runner._model.parameters():
            parameter.data.fill_(float("inf"))
        engine = Engine(lambda runner=runner: runner, options)  # type: ignore[misc]
        await engine.start()
        sessions = Sessions(engine, {}, {})
        await sessions.open("a", stream(rng, CHUNK))
        await until(lambda: sessions.offsets["a"] == CHUNK or bool(sessions.failures), "a step")  # noqa: B023
        with pytest.raises(StateRefused, match="not finite"):
            await engine.capture("a")
        with pytest.raises(GenerationFailed, match="not finite"):
            await collect(engine.generate("a", greedy([1], 3)))
        await engine.stop()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan"), 3e38])
def test_one_value_that_is_not_finite_is_found(dtype: torch.dtype, value: float) -> None:
    tensor = torch.ones(5, dtype=dtype)
    tensor[3] = value
    data = tensor.view(torch.uint8).numpy().tobytes()
    array = Array(str(dtype).removeprefix("torch."), (5,), data)
    assert _is_finite(array) == bool(tensor.isfinite().all())


async def test_inspection_shows_what_the_heads_keep_best_first(
    folder: Path, rng: random.Random
) -> None:
    tokens = stream(rng, 30 * CHUNK)
    async with running(folder) as sessions:
        await sessions.open("a", tokens)
        await sessions.absorbed("a", len(tokens))
        info = sessions.engine.info
        shown = await sessions.engine.inspect("a", [], 5)
        assert shown.offset == len(tokens)
        assert shown.checksum == (await sessions.engine.capture("a")).checksum
        assert {head.layer for head in shown.heads} == set(info.lte_layers)
        assert any(head.kept > 4 for head in shown.heads)
        for head in shown.heads:
            assert head.kept <= head.budget
            assert len(head.tokens) == min(5, head.kept)
            assert all(token.token_id == tokens[token.position] for token in head.tokens)
            assert all(token.sink == (token.position < 4) for token in head.tokens)
            scores = [token.score for token in head.tokens if not token.sink]
            assert scores == sorted(scores, reverse=True)
            sinks = [token.sink for token in head.tokens]
            assert sinks == sorted(sinks, reverse=True)
        only = await sessions.engine.inspect("a", [info.lte_layers[-1]], 1)
        assert {head.layer for head in only.heads} == {info.lte_layers[-1]}


async def test_the_engine_says_what_it_serves(folder: Path) -> None:
    loaded = load_model(folder, dtype=torch.float32)
    async with running(folder) as sessions:
        info = sessions.engine.info
    assert info.fingerprint == loaded.fingerprint
    assert info.state_bytes == nbytes(loaded.config, torch.float32)
    assert info.chunk == CHUNK
    assert info.layer_kinds == tuple(layer.kind for layer in loaded.config.layers)
    assert info.vocab_size == loaded.config.vocab_size
    for part in (
        torch.backends.cpu.get_cpu_capability(),
        torch.__version__,
        "float32",
        "threads-1",
        f"rounding-{ROUNDING_REVISION}",
    ):
        assert part in info.numerics


async def test_a_step_that_breaks_inside_the_model_loses_only_its_session(
    folder: Path, rng: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = stream(rng, 4 * CHUNK)
    loaded = load_model(folder, dtype=torch.float32)
    absorb = ModelRunner.absorb

    def break_on_the_mark(self: ModelRunner, items: list) -> None:  # type: ignore[type-arg]
        absorb(self, items)
        if any(255 in item.tokens for item in items):
            raise RuntimeError("injected")

    monkeypatch.setattr(ModelRunner, "absorb", break_on_the_mark)
    async with running(folder) as sessions:
        await sessions.open("good", tokens)
        await sessions.absorbed("good", len(tokens))
        await sessions.open("bad", [255] * CHUNK)
        await until(lambda: "bad" in sessions.failures, "the failure to be told")
        assert "injected" in sessions.failures["bad"]
        # The slot comes back clean.
        await sessions.open("new", tokens)
        await sessions.absorbed("new", len(tokens))
        checksums = {(await sessions.engine.capture(key)).checksum for key in ("good", "new")}
        assert len(checksums) == 1
        _, written, _ = await collect(sessions.engine.generate("good", greedy([1, 2], 9)))
        assert written == write_alone(loaded, [*tokens, 1, 2], 9)
