"""Every task by its name, over the texts that it needs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from lalte.evaluation.completions import read_rows, write_completion
from lalte.evaluation.conversation import write_conversation
from lalte.evaluation.documents import (
    SQUAD_FILE,
    document_streams,
    read_paragraphs,
    write_documents,
)
from lalte.evaluation.errors import EvaluationError
from lalte.evaluation.instructions import write_instruction
from lalte.evaluation.needles import NEEDLE_TASKS, write_needles
from lalte.evaluation.recall import write_recall
from lalte.evaluation.samples import Task, shared
from lalte.retrofit.corpus import read_corpus

if TYPE_CHECKING:
    from pathlib import Path

    from lalte.evaluation.documents import Paragraph
    from lalte.retrofit.corpus import Corpus
    from lalte.text import Tokenizer

PERPLEXITY = "perplexity"
INSTRUCTIONS = "instructions"
TASKS = (
    *NEEDLE_TASKS,
    "facts",
    "superseded",
    "documents",
    INSTRUCTIONS,
    "mqar",
    "completion",
    PERPLEXITY,
)


@dataclass(frozen=True)
class Sources:
    """Texts for tasks, read when they are first needed.

    data: folder with books, dialogues and paragraphs. held_out_books: ids of the books that
    nothing was trained on. rows: the file of a completion task.
    """

    tokenizer: Tokenizer
    data: Path | None = None
    held_out_books: tuple[str, ...] = ()
    rows: Path | None = None

    @cached_property
    def corpus(self) -> Corpus:
        return read_corpus(self._data(), self.held_out_books, held_out=True)

    @cached_property
    def paragraphs(self) -> list[Paragraph]:
        return read_paragraphs(self._data() / SQUAD_FILE)

    @cached_property
    def completions(self) -> list[tuple[str, str]]:
        if self.rows is None:
            raise EvaluationError("completion", "needs a file of JSON lines: --rows FILE")
        return read_rows(self.rows)

    def _data(self) -> Path:
        if self.data is None:
            raise EvaluationError("this task", "needs the folder with its texts: --data FOLDER")
        return self.data


def make_task(name: str, sources: Sources, per_stream: int = 1, per_haystack: int = 1) -> Task:
    """Make a task that is asked and answered.

    per_stream: questions that share a stream. per_haystack: streams of one needle each that share
    the text around it. Raises EvaluationError for a name that is none, and where no haystack can be
    shared.
    """
    tokenizer = sources.tokenizer
    if per_haystack > 1 and (name not in NEEDLE_TASKS or per_stream > 1):
        raise EvaluationError(
            name,
            "cannot share a haystack: only streams of one needle can "
            f"({', '.join(NEEDLE_TASKS)}, one a stream)",
        )
    match name:
        case "single_1" | "single_2" | "single_3":
            return Task(
                name,
                shared(per_stream),
                lambda length, seed, index, questions: write_needles(
                    sources.corpus,
                    tokenizer,
                    name,
                    length,
                    seed,
                    index,
                    questions,
                    per_haystack,
                ),
            )
        case "facts" | "superseded":
            return Task(
                name,
                shared(per_stream),
                lambda length, seed, index, questions: write_conversation(
                    sources.corpus,
                    tokenizer,
                    length,
                    seed,
                    index,
                    questions,
                    superseded=name == "superseded",
                ),
            )
        case "documents":
            return Task(
                name,
                lambda length, samples: document_streams(len(sources.paragraphs), length, samples),
                lambda length, seed, index, questions: write_documents(
                    sources.paragraphs, length, seed, index, questions
                ),
            )
        case "mqar":
            return Task(
                name,
                shared(per_stream),
                lambda length, seed, index, questions: write_recall(
                    tokenizer, length, seed, index, questions
                ),
            )
        case "instructions":
            return Task(name, shared(1), lambda _length, _seed, index, _q: write_instruction(index))
        case "completion":
            return Task(
                name,
                shared(1),
                lambda _length, _seed, index, _q: write_completion(sources.completions, index),
            )
    raise EvaluationError(name, f"is no task that is asked; there are {', '.join(TASKS)}")
