"""Measures cells of a table: one task at one length with one memory."""

import os
import platform
import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol, Self

import torch

from lalte.checkpoints.load import LoadedModel, load_model
from lalte.config import LTEConfig
from lalte.evaluation import variants
from lalte.evaluation.dense import DenseReader
from lalte.evaluation.errors import EvaluationError
from lalte.evaluation.instructions import FIRST_TOKENS
from lalte.evaluation.perplexity import (
    blocks,
    foresee,
    foresee_densely,
    foresee_freshly,
    perplexity,
)
from lalte.evaluation.prose import passage
from lalte.evaluation.reading import StateReader
from lalte.evaluation.samples import Question, Reply, Sample
from lalte.evaluation.scoring import wilson
from lalte.evaluation.tasks import INSTRUCTIONS, PERPLEXITY, Sources, make_task
from lalte.state import nbytes
from memoryd.allocator import keep_freed_memory
from memoryd.evaluation.own_daemon import own_daemon
from memoryd.evaluation.sessions import SessionReader
from memoryd_client import Client

OWN = "own"
FRESH = "fresh"
"""Of perplexity: the own memory, begun anew shortly before each block."""
Form = Literal["session", "process"]
OnProgress = Callable[[int, int, int], None]
"""(questions answered, of how many, tokens read)"""


class Reader(Protocol):
    """Answers the questions of a sample."""

    def answer(self, sample: Sample) -> list[Reply]: ...


@dataclass(frozen=True)
class Wanted:
    """A cell to be measured.

    length: tokens of the prompt, of dialogue or of the stream, or paragraphs; 0 where the task
    has none. memory: OWN or a baseline. one_prompt: in this process, without a daemon; baselines
    always are. per_stream: questions that share a stream. per_haystack: streams that share a
    haystack. state_limit: budgets are cut until a state has at most so many bytes; 0 leaves them.
    positions: where retained tokens are said to stand, see `variants.at_positions`; empty leaves
    them where the model has them. label: what the table calls the memory.
    """

    task: str
    length: int
    samples: int
    seed: int = 1
    memory: str = OWN
    one_prompt: bool = False
    per_stream: int = 1
    state_limit: int = 0
    label: str = ""
    per_haystack: int = 1
    positions: str = ""

    @property
    def form(self) -> Form:
        direct = self.one_prompt or self.memory != OWN or self.task == PERPLEXITY
        return "process" if direct or self.state_limit or self.positions else "session"


@dataclass(frozen=True)
class Place:
    """Where evaluations run.

    model: its folder. target: a daemon that serves it; None starts one when it is needed.
    connect: gives a client for a daemon's address. threads: of torch, 0 is one a core.
    at_once: sessions that are read, and replies that are written, together.
    """

    model: Path
    connect: Callable[[str], Client]
    target: str | None = None
    threads: int = 0
    at_once: int = 8


class Evaluation:
    """Measures cells of one model. The model and the daemon start when they are first needed."""

    def __init__(self, place: Place, make_sources: Callable[[LoadedModel], Sources]) -> None:
        self._place = place
        self._make_sources = make_sources
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        if self._place.threads:
            torch.set_num_threads(self._place.threads)
        keep_freed_memory()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    @cached_property
    def loaded(self) -> LoadedModel:
        return load_model(self._place.model)

    @cached_property
    def sources(self) -> Sources:
        return self._make_sources(self.loaded)

    @cached_property
    def client(self) -> Client:
        """Of a daemon that serves this model. Raises EvaluationError where it serves another."""
        target = self._place.target
        if target is None:
            daemon = own_daemon(
                self._place.model,
                threads=self._place.threads,
                lanes=self._place.at_once,
            )
            target = self._stack.enter_context(daemon)
        client = self._stack.enter_context(self._place.connect(target))
        served = client.get_model().fingerprint
        if served != self.loaded.fingerprint:
            raise EvaluationError(
                target,
                f"serves the model {served}, not {self.loaded.fingerprint} of "
                f"{self._place.model}: name its folder with --model",
            )
        return client

    @property
    def state_bytes(self) -> int:
        """Of a session of this model."""
        return nbytes(self.loaded.config, self.loaded.model.dtype)

    def key(self, wanted: Wanted) -> dict[str, object]:
        """What tells this cell from others, see `log.KEY`."""
        rows = self.sources.rows
        return {
            "task": wanted.task,
            "length": wanted.length,
            "samples": wanted.samples,
            "seed": wanted.seed,
            "memory": wanted.label or wanted.memory,
            "form": wanted.form,
            "model": self._fingerprint(wanted),
            "per_stream": wanted.per_stream,
            "state_limit": wanted.state_limit,
            "rows": rows.name if rows is not None and wanted.task == "completion" else "",
            "per_haystack": wanted.per_haystack,
            "positions": wanted.positions,
        }

    def run(
        self, wanted: Wanted, on_progress: OnProgress = lambda _done, _all, _tokens: None
    ) -> dict[str, Any]:
        """Measure a cell; its key and figures, for JSON. Raises EvaluationError, RetrofitError."""
        begin = time.monotonic()
        if wanted.task == PERPLEXITY:
            figures = self._foresee(wanted, on_progress)
        else:
            figures = self._ask(wanted, on_progress)
        return {
            **self.key(wanted),
            **figures,
            "seconds": round(time.monotonic() - begin, 1),
            "routers": self.loaded.manifest.provenance.routers,
            "date": datetime.now(UTC).date().isoformat(),
            "machine": _machine(),
            "versions": {name: version(name) for name in ("memoryd", "torch")},
        }

    def _fingerprint(self, wanted: Wanted) -> str:
        # Full attention reads none of what an adapter adds: its cells outlive the adapter.
        source = self.loaded.manifest.provenance.source_sha256
        return source[:32] if wanted.memory == "full" and source else self.loaded.fingerprint

    def _ask(self, wanted: Wanted, on_progress: OnProgress) -> dict[str, Any]:
        task = make_task(wanted.task, self.sources, wanted.per_stream, wanted.per_haystack)
        plan = task.streams(wanted.length, wanted.samples)
        samples = [
            task.write(wanted.length, wanted.seed, index, questions)
            for index, questions in enumerate(plan)
        ]
        progress = _Progress(sum(len(sample.questions) for sample in samples), on_progress)
        reader, state_bytes = self._reader(wanted, progress.read)
        answered: list[tuple[Question, Reply]] = []
        for sample, replies in zip(samples, self._answers(wanted, reader, samples), strict=True):
            answered += zip(sample.questions, replies, strict=True)
            progress.answered(len(replies))
        longest = max(reply.tokens for _, reply in answered)
        right = self._right(wanted, samples, answered)
        return {
            **_shares(sum(right), len(right)),
            "outdated": sum(question.is_outdated(reply.text) for question, reply in answered),
            "state_bytes": state_bytes
            or variants.key_value_bytes(self.loaded.config, torch.bfloat16, longest),
            "tokens": longest,
            "answers": [
                [question.depth, is_right]
                for (question, _), is_right in zip(answered, right, strict=True)
            ],
            **self._retention([reply for _, reply in answered]),
        }

    def _answers(
        self, wanted: Wanted, reader: Reader, samples: list[Sample]
    ) -> Iterator[list[Reply]]:
        """The replies to each sample."""
        together = wanted.per_haystack
        if together > 1 and isinstance(reader, SessionReader):
            for first in range(0, len(samples), together):
                yield from reader.answer_together(samples[first : first + together])
            return
        at_once = self._place.at_once if wanted.form == "session" else 1
        with ThreadPoolExecutor(at_once) as pool:
            yield from pool.map(reader.answer, samples)

    def _reader(
        self, wanted: Wanted, on_tokens: Callable[[int], None]
    ) -> tuple[Reader, int | None]:
        """Who answers, and the bytes of its memory; None where it grows."""
        loaded, at_once = self.loaded, self._place.at_once
        text = (loaded.tokenizer, loaded.turn_format)
        if wanted.form == "session":
            reader = SessionReader(self.client, loaded.config, *text, at_once, on_tokens)
            return reader, self.client.get_model().state_bytes
        if wanted.memory == "full":
            return DenseReader(variants.full_attention(loaded.model), *text, on_tokens), None
        memory = self._memory(wanted)
        return StateReader(memory, *text, at_once, on_tokens), memory.state_bytes

    def _memory(self, wanted: Wanted) -> variants.Memory:
        model = self.loaded.model
        if wanted.state_limit:
            model = variants.within_bytes(model, wanted.state_limit)
        if wanted.positions:
            model = variants.at_positions(model, wanted.positions)
        match wanted.memory:
            case "own":
                return variants.as_it_is(model)
            case "window":
                return variants.sinks_and_window(model)
            case "random":
                return variants.random_retention(model, wanted.seed)
            case "attended":
                return variants.attended_retention(model)
            case "local":
                return variants.local_windows(model)
        known = ", ".join((OWN, *variants.BASELINES, f"and for perplexity {FRESH}"))
        raise EvaluationError(wanted.memory, f"is no memory; there are {known}")

    def _right(
        self, wanted: Wanted, samples: list[Sample], answered: list[tuple[Question, Reply]]
    ) -> list[bool]:
        if wanted.task != INSTRUCTIONS:
            return [question.is_right(reply.text) for question, reply in answered]
        # Over states, as the memory itself is run: a dense pass rounds otherwise, and greedy
        # replies then part where two tokens are about as likely.
        loaded = self.loaded
        teacher = StateReader(
            variants.Memory(variants.full_attention(loaded.model), 0),
            loaded.tokenizer,
            loaded.turn_format,
        )
        expected = [reply.ids for sample in samples for reply in teacher.answer(sample)]
        return [
            reply.ids[:FIRST_TOKENS] == ids[:FIRST_TOKENS]
            for (_, reply), ids in zip(answered, expected, strict=True)
        ]

    def _retention(self, replies: list[Reply]) -> dict[str, Any]:
        """Mean share of a value's tokens that each head had kept, by layer; if it is known."""
        kept = [reply.kept for reply in replies if reply.kept is not None]
        if not kept:
            return {}
        layers = [i for i, x in enumerate(self.loaded.config.layers) if isinstance(x, LTEConfig)]
        mean = torch.tensor(kept, dtype=torch.float64).mean(dim=0)
        shares = [[round(share, 3) for share in heads] for heads in mean.tolist()]
        return {
            "kept": round(float(mean.mean()), 3),
            "kept_by": dict(zip(layers, shares, strict=True)),
        }

    def _foresee(self, wanted: Wanted, on_progress: OnProgress) -> dict[str, Any]:
        rng = random.Random(f"perplexity {wanted.seed}")  # noqa: S311  nothing secret
        corpus, tokenizer = self.sources.corpus, self.loaded.tokenizer
        if wanted.memory == "full":
            read = partial(foresee_densely, variants.full_attention(self.loaded.model))
            state_bytes = variants.key_value_bytes(
                self.loaded.config, torch.bfloat16, wanted.length
            )
        else:
            fresh = wanted.memory == FRESH
            memory = self._memory(replace(wanted, memory=OWN) if fresh else wanted)
            read = partial(foresee_freshly if fresh else foresee, memory)
            state_bytes = memory.state_bytes
        streams = []
        for number in range(wanted.samples):
            streams.append(read(passage(corpus, tokenizer, rng, wanted.length)))
            on_progress(number + 1, wanted.samples, (number + 1) * wanted.length)
        right = sum(int(stream.right.sum()) for stream in streams)
        return {
            **_shares(right, sum(stream.right.numel() for stream in streams)),
            "perplexity": round(perplexity(streams), 4),
            "blocks": [asdict(block) for block in blocks(streams)],
            "state_bytes": state_bytes,
            "tokens": wanted.length,
        }


class _Progress:
    """Adds up what was read and answered."""

    def __init__(self, questions: int, tell: OnProgress) -> None:
        self._questions = questions
        self._tell = tell
        self._done = self._tokens = 0

    def read(self, tokens: int) -> None:
        self._tokens += tokens
        self._tell(self._done, self._questions, self._tokens)

    def answered(self, questions: int) -> None:
        self._done += questions
        self._tell(self._done, self._questions, self._tokens)


def _shares(right: int, asked: int) -> dict[str, Any]:
    return {
        "right": right,
        "asked": asked,
        "accuracy": round(right / asked, 4),
        "ci95": [round(bound, 4) for bound in wilson(right, asked)],
    }


def _machine() -> str:
    return f"{_processor()}, {len(os.sched_getaffinity(0))} cores"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    names = sorted({x.partition(":")[2].strip() for x in lines if x.startswith("model name")})
    return " / ".join(names) or platform.machine()
