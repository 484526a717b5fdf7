"""An engine over a runner whose "model" is a list of tokens: what was read can be read off it."""

from __future__ import annotations

import asyncio
import struct
import threading
import time
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from memoryd.engine.engine import Engine
from memoryd.engine.errors import StateRefused
from memoryd.engine.messages import (
    Captured,
    EngineInfo,
    EngineOptions,
    GenerateRequest,
    Inspection,
    Sampling,
    Started,
    Token,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

    from memoryd.engine.generation import Generation
    from memoryd.engine.messages import Array, GenerationEvent
    from memoryd.engine.replies import Draw
    from memoryd.engine.scheduler import AbsorbItem

CHUNK = 4
VOCAB = 1000
# Tokens that break a step that reads them, and one after which logits are not finite.
POISON = 13
NOT_FINITE = 17


@dataclass(frozen=True)
class Raw:
    dtype: str
    shape: tuple[int, ...]
    data: bytes


def next_token(tokens: Sequence[int]) -> int:
    """The list model: never POISON, NOT_FINITE or a number below 100."""
    return 100 + hash((len(tokens), *tokens[-40:])) % (VOCAB - 100)


class ListRunner:
    """A Runner without arithmetic. Clearing `go` stops it before its next step."""

    def __init__(self, options: EngineOptions) -> None:
        self.info = EngineInfo(
            model="list",
            fingerprint="f",
            numerics="n",
            layer_kinds=("gdn", "lte"),
            parameters=0,
            vocab_size=VOCAB,
            chunk=CHUNK,
            state_bytes=0,
            max_prompt_tokens=4096,
            notes=(),
            routers="none",
        )
        self.slots: list[list[int]] = [[] for _ in range(options.slots)]
        self.lanes: list[list[int]] = [[] for _ in range(options.lanes)]
        self.absorbed: list[tuple[AbsorbItem, ...]] = []
        self.pieces: list[int] = []
        self.draws: list[Draw] = []
        self.read_before_first_draw: list[tuple[int, ...]] = []
        self.go = threading.Event()
        self.go.set()
        self.lost_tokens = 0

    def _step(self) -> None:
        assert self.go.wait(60)
        # A step of no cost at all would keep the interpreter's lock from the asyncio side.
        time.sleep(0.0002)

    def _read(self, into: list[int], tokens: Sequence[int]) -> None:
        if POISON in tokens:
            raise RuntimeError("poisoned")
        into.extend(tokens)

    def _draw(self, lane: int, draw: Draw) -> int | None:
        self.draws.append(draw)
        tokens = self.lanes[lane]
        return None if NOT_FINITE in tokens else next_token(tokens)

    def activate(self) -> nullcontext[None]:
        return nullcontext()

    def reset(self, slot: int) -> None:
        self.slots[slot] = []

    def load_slot(self, slot: int, arrays: Mapping[str, Array], offset: int) -> None:
        data = bytes(arrays["tokens"].data)
        if len(data) != 4 * offset:
            raise StateRefused("tokens has the wrong length")
        self.slots[slot] = list(struct.unpack(f"<{offset}i", data))

    def offset(self, slot: int) -> int:
        return len(self.slots[slot]) - self.lost_tokens

    def capture(self, slot: int) -> Captured:
        tokens = self.slots[slot]
        if NOT_FINITE in tokens:
            raise StateRefused("tokens is not finite")
        data = struct.pack(f"<{len(tokens)}i", *tokens)
        return Captured(len(tokens), {"tokens": Raw("int32", (len(tokens),), data)}, data.hex())

    def inspect(self, slot: int, layers: Sequence[int], limit: int) -> Inspection:
        return Inspection(self.offset(slot), "", ())

    def absorb(self, items: Sequence[AbsorbItem]) -> None:
        self._step()
        self.absorbed.append(tuple(items))
        for item in items:
            self._read(self.slots[item.slot], item.tokens)

    def copy_to_lane(self, slot: int, lane: int) -> None:
        self.lanes[lane] = list(self.slots[slot])

    def move_lane(self, source: int, target: int) -> None:
        self.lanes[target] = self.lanes[source]
        self.lanes[source] = [-1]

    def read(self, lane: int, tokens: Sequence[int]) -> None:
        self._step()
        self.pieces.append(len(tokens))
        self._read(self.lanes[lane], tokens)

    def read_and_draw(self, lane: int, tokens: Sequence[int], draw: Draw) -> int | None:
        self.read(lane, tokens)
        self.read_before_first_draw.append(tuple(self.lanes[lane]))
        return self._draw(lane, draw)

    def decode(self, tokens: Sequence[int], draws: Sequence[Draw]) -> list[int | None]:
        self._step()
        for lane, token in enumerate(tokens):
            self._read(self.lanes[lane], [token])
        return [self._draw(lane, draw) for lane, draw in enumerate(draws)]


@dataclass
class Sessions:
    """What an engine told about its sessions."""

    engine: Engine
    offsets: dict[str, int]
    failures: dict[str, str]

    async def open(self, key: str, tokens: Sequence[int] = (), **state: object) -> None:
        self.offsets[key] = int(str(state.get("offset", 0)))
        self.failures.pop(key, None)
        await self.engine.open(
            key,
            on_absorbed=lambda offset: self.offsets.__setitem__(key, offset),
            on_failed=lambda reason: self.failures.__setitem__(key, reason),
            **state,  # type: ignore[arg-type]
        )
        self.engine.feed(key, tokens)

    async def absorbed(self, key: str, offset: int) -> None:
        await until(lambda: self.offsets[key] == offset, f"{key} to stand at {offset}")


async def until(holds: Callable[[], bool], what: str) -> None:
    """Waits for a condition, at most a minute."""
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        await asyncio.sleep(0.001)


async def collect(generation: Generation) -> tuple[Started, list[int], GenerationEvent]:
    """The parts of a whole generation."""
    events = [event async for event in generation]
    assert isinstance(events[0], Started)
    assert all(isinstance(event, Token) for event in events[1:-1])
    return events[0], [event.id for event in events[1:-1] if isinstance(event, Token)], events[-1]


def request(
    prompt: Sequence[int] = (1, 2, 3),
    *,
    backlog: bool = True,
    tokens: int = 5,
    stop: Sequence[int] = (),
    drawn: Sequence[int] = (),
) -> GenerateRequest:
    sampling = Sampling(max_tokens=tokens)
    return GenerateRequest(tuple(prompt), backlog, sampling, frozenset(stop), tuple(drawn))


def continue_list(read: Sequence[int], count: int) -> list[int]:
    """What the list model writes behind `read`."""
    tokens = list(read)
    for _ in range(count):
        tokens.append(next_token(tokens))
    return tokens[len(read) :]


@asynccontextmanager
async def running(runner: ListRunner, options: EngineOptions) -> AsyncIterator[Sessions]:
    engine = Engine(lambda: runner, options)
    await engine.start()
    try:
        yield Sessions(engine, {}, {})
    finally:
        runner.go.set()
        await engine.stop()
