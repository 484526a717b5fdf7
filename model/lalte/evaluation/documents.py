"""Questions about a stream of paragraphs (SQuAD, arXiv 1606.05250), each a document of its own.

Reads an xz-compressed file of JSON lines: context, and qas, a list of {question, answers}.
"""

from __future__ import annotations

import json
import lzma
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lalte.evaluation.errors import EvaluationError
from lalte.evaluation.samples import Question, Sample, Told
from lalte.text import Role

if TYPE_CHECKING:
    from pathlib import Path

SQUAD_FILE = "squad_en.jsonl.xz"


@dataclass(frozen=True)
class Paragraph:
    """A paragraph and (question, right answers) about it."""

    text: str
    questions: tuple[tuple[str, tuple[str, ...]], ...]


def read_paragraphs(path: Path) -> list[Paragraph]:
    """Read the file. Raises EvaluationError where it is missing."""
    if not path.is_file():
        raise EvaluationError(path, "does not exist; point --data at the folder that holds it")
    rows = [json.loads(line) for line in lzma.decompress(path.read_bytes()).decode().splitlines()]
    return [
        Paragraph(
            row["context"],
            tuple((qa["question"], tuple(qa["answers"])) for qa in row["qas"]),
        )
        for row in rows
    ]


def document_streams(paragraphs: int, length: int, samples: int) -> list[int]:
    """Spread the questions over as many streams of `length` paragraphs as there are.

    paragraphs: how many there are in all.
    """
    streams = min(max(paragraphs // length, 1), samples)
    fewest, more = divmod(samples, streams)
    return [fewest + (index < more) for index in range(streams)]


def write_documents(
    paragraphs: list[Paragraph], length: int, seed: int, index: int, questions: int
) -> Sample:
    """Take the stream of that index from the shuffled paragraphs; ask about random ones of it.

    Raises EvaluationError where a stream is to hold more paragraphs than there are.
    """
    if length > len(paragraphs):
        raise EvaluationError("documents", f"there are {len(paragraphs)} paragraphs, not {length}")
    rng = random.Random(f"documents {seed}")  # noqa: S311  nothing secret
    order = rng.sample(range(len(paragraphs)), k=len(paragraphs))
    first = index * length % len(order)
    chosen = [paragraphs[number] for number in (order + order)[first : first + length]]
    asked = [
        (number, question)
        for number, paragraph in enumerate(chosen)
        for question in paragraph.questions
    ]
    rng = random.Random(f"documents {length} {seed} {index}")  # noqa: S311
    return Sample(
        tuple(Told(Role.DOCUMENT, paragraph.text) for paragraph in chosen),
        tuple(
            Question(text, raw=False, answers=answers, depth=100 * number / len(chosen))
            for number, (text, answers) in rng.sample(asked, k=min(questions, len(asked)))
        ),
    )
