"""What a reader is told and asked, and what it replies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lalte.text import Role

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class Told:
    """One whole turn or document; RAW text stands in the stream without framing."""

    role: Role
    text: str


@dataclass(frozen=True)
class Question:
    """What is asked of a copy of the memory.

    text: the question; prefix: how the reply begins. raw: neither is framed, the model goes on
    right behind the stream. answers: a right reply contains one of them, in any case; without
    any, the reply is compared with the teacher's. outdated: what would have been right before.
    value: text as it was told, whose tokens a memory has to keep; empty where there is no such.
    depth: where in the stream the answer stands, in percent. stop: texts that end the reply.
    """

    text: str
    prefix: str = ""
    raw: bool = True
    answers: tuple[str, ...] = ()
    outdated: str = ""
    value: str = ""
    depth: float | None = None
    stop: tuple[str, ...] = ()
    max_tokens: int = 48

    def is_right(self, reply: str) -> bool:
        """Whether the reply contains an answer."""
        return any(answer.lower() in reply.lower() for answer in self.answers)

    def is_outdated(self, reply: str) -> bool:
        """Whether the reply holds to what was right before."""
        stale = bool(self.outdated) and self.outdated.lower() in reply.lower()
        return stale and not self.is_right(reply)


@dataclass(frozen=True)
class Sample:
    """One stream, and questions that are asked at its end, each on its own.

    shared: so many first characters of the first text are also those of every sample that shares
    at least as many, among samples that were written over one haystack.
    """

    told: tuple[Told, ...]
    questions: tuple[Question, ...]
    shared: int = 0


@dataclass(frozen=True)
class Reply:
    """What was written, without the prefix.

    tokens: of the stream that it was asked on. kept: per LTE layer and KV head, the share of the
    value's tokens that were retained or still stood in the window; None where nothing tells.
    """

    text: str
    ids: tuple[int, ...]
    tokens: int
    kept: tuple[tuple[float, ...], ...] | None = None


@dataclass(frozen=True)
class Task:
    """A kind of sample.

    streams: (length, samples) -> how many questions each stream gets, samples in all.
    write: (length, seed, index, questions) -> the stream of that index.
    """

    name: str
    streams: Callable[[int, int], list[int]]
    write: Callable[[int, int, int, int], Sample]


def shared(questions: int) -> Callable[[int, int], list[int]]:
    """Streams of so many questions each, the last one of what is left."""

    def streams(_length: int, samples: int) -> list[int]:
        full, rest = divmod(samples, questions)
        return [questions] * full + ([rest] if rest else [])

    return streams
