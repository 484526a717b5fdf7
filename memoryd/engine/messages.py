"""Everything that crosses between the asyncio side and the engine's thread.

Plain frozen values: no tensors, futures or callbacks, so that the thread could become a process.
A session is known by a number drawn when it is opened, so that what concerns a session's earlier
life is never taken for news of a later one under the same key.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

DType = Literal["bfloat16", "float32"]


class Array(Protocol):
    """A named piece of a session's state as raw little-endian bytes in C order."""

    @property
    def dtype(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def data(self) -> bytes | memoryview: ...


@dataclass(frozen=True)
class EngineOptions:
    """Raises ValueError where a number cannot work."""

    slots: int  # sessions in memory at once
    lanes: int  # generations at once, the one that reads its prompt included
    threads: int = 0  # of the model's arithmetic; 0 is one for every core
    dtype: DType = "bfloat16"
    chunks_per_step: int = 8  # chunks absorbed in one step while nobody waits for tokens
    chunks_per_step_busy: int = 2  # the same between two decode steps
    prefill_tokens_per_step: int = 256  # prompt tokens read between two decode steps

    def __post_init__(self) -> None:
        for name in (
            "slots",
            "lanes",
            "chunks_per_step",
            "chunks_per_step_busy",
            "prefill_tokens_per_step",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.threads < 0:
            raise ValueError(f"threads is {self.threads}; it must be 0 (every core) or more")


@dataclass(frozen=True)
class EngineInfo:
    """What is being served."""

    model: str
    fingerprint: str  # of configuration, weights, tokenizer and turn format
    numerics: str  # of what else decides the bits: instruction set, torch, dtype, threads
    layer_kinds: tuple[str, ...]  # bottom first
    parameters: int  # a shared embedding counted once
    vocab_size: int
    chunk: int  # C: tokens absorbed at a time
    state_bytes: int  # of one session, at any length of its stream, less what each token adds
    max_prompt_tokens: int  # the length the weights were trained at
    notes: tuple[str, ...]
    routers: str  # where the routers' weights come from
    token_bytes: int = 0  # what each token adds to a session's state; 0 for a constant one

    @property
    def lte_layers(self) -> tuple[int, ...]:
        """Indices of the layers that keep tokens."""
        return tuple(i for i, kind in enumerate(self.layer_kinds) if kind == "lte")


@dataclass(frozen=True)
class EngineStats:
    """Figures as of the last step; the totals count from the start.

    waiting: generations without a lane. Tokens by steps tell how well work is batched.
    """

    slots_used: int
    slots_total: int
    lanes_used: int
    lanes_total: int
    waiting: int
    backlog_tokens: int
    absorbed_tokens: int
    absorb_steps: int
    generated_tokens: int
    decode_steps: int


@dataclass(frozen=True)
class Sampling:
    """How one reply is drawn; the ranges are those of lalte.sampling.SamplingParams."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int = 0  # 64 bits, signed or not
    max_tokens: int = 256


@dataclass(frozen=True)
class GenerateRequest:
    """What to read on a copy of the session's state, and how to go on.

    prompt: read behind the stream.
    include_backlog: read all that was fed before the call, not only what is absorbed already.
    stop_ids: tokens that end the reply; they are not part of it.
    drawn: tokens of this reply that were drawn earlier and stand in the prompt or in the stream.
        Repetition penalty, random numbers and max_tokens count on behind them.
    """

    prompt: tuple[int, ...]
    include_backlog: bool
    sampling: Sampling = field(default_factory=Sampling)
    stop_ids: frozenset[int] = frozenset()
    drawn: tuple[int, ...] = ()


@dataclass(frozen=True)
class Captured:
    """A session's committed state. checksum: xxh3-128 in hex over the arrays.

    growing_bytes: how many at the end of the arrays hold the stream itself; as it gets longer, they
    stay and others follow.
    """

    offset: int
    arrays: Mapping[str, Array]
    checksum: str
    growing_bytes: int = 0


@dataclass(frozen=True)
class InspectedToken:
    """score: the sigmoid of the logit that ranks the token; a sink ranks above all others."""

    position: int
    token_id: int
    score: float
    sink: bool


@dataclass(frozen=True)
class InspectedHead:
    """What one KV head keeps: `kept` tokens of at most `budget`, the best of them in `tokens`."""

    layer: int
    head: int
    kept: int
    budget: int
    tokens: tuple[InspectedToken, ...]


@dataclass(frozen=True)
class Inspection:
    offset: int
    checksum: str
    heads: tuple[InspectedHead, ...]


# To the thread. A ticket is answered by exactly one Answer or Refusal.


@dataclass(frozen=True)
class Open:
    ticket: int
    session: int
    tenant: str
    offset: int
    arrays: Mapping[str, Array] | None
    background: bool = False


@dataclass(frozen=True)
class Feed:
    session: int
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class Capture:
    ticket: int
    session: int


@dataclass(frozen=True)
class Inspect:
    ticket: int
    session: int
    layers: tuple[int, ...]
    limit: int


@dataclass(frozen=True)
class Close:
    ticket: int
    session: int


@dataclass(frozen=True)
class Generate:
    generation: int
    session: int
    request: GenerateRequest


@dataclass(frozen=True)
class Cancel:
    generation: int


@dataclass(frozen=True)
class Stop:
    pass


Command = Open | Feed | Capture | Inspect | Close | Generate | Cancel | Stop


# From the thread.


@dataclass(frozen=True)
class Loaded:
    info: EngineInfo


@dataclass(frozen=True)
class LoadFailed:
    """The thread has ended. The exception itself, for it carries the facts in its fields."""

    error: Exception


@dataclass(frozen=True)
class Answer:
    ticket: int
    result: Captured | Inspection | None


@dataclass(frozen=True)
class Refusal:
    ticket: int
    cause: Literal["no_free_slot", "state_refused", "not_open"]
    reason: str


@dataclass(frozen=True)
class Absorbed:
    session: int
    offset: int


@dataclass(frozen=True)
class SessionFailed:
    session: int
    reason: str


@dataclass(frozen=True)
class Started:
    """The session's state was copied.

    memory_tokens: of the stream that the reply can see.
    prompt_tokens: to be read on the copy, what is not yet absorbed of the stream included.
    """

    memory_tokens: int
    prompt_tokens: int
    wait_seconds: float


@dataclass(frozen=True)
class Token:
    id: int


@dataclass(frozen=True)
class Finished:
    """prefill_seconds: from the copy to the first draw; decode_seconds: from there to the last."""

    reason: Literal["stop", "length"]
    prefill_seconds: float
    decode_seconds: float


GenerationEvent = Started | Token | Finished


@dataclass(frozen=True)
class Progress:
    generation: int
    event: GenerationEvent


@dataclass(frozen=True)
class GenerationStopped:
    """The generation will send nothing more, and not because it is finished."""

    generation: int
    reason: str


@dataclass(frozen=True)
class Stopped:
    """The thread's last word. reason: what broke it; None where it was told to stop."""

    reason: str | None


Event = (
    Loaded
    | LoadFailed
    | Answer
    | Refusal
    | Absorbed
    | SessionFailed
    | Progress
    | GenerationStopped
    | Stopped
)
