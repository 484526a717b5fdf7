"""Completion tasks in the published form of EVAPORATE and Based (SWDE, FDA, SQuAD completion).

A file of JSON lines (plain or .xz) with `text`, the whole prompt, and `value`, what the reply must
contain (arXiv 2402.18668). In the memory form the prompt's last line, or its last sentence where it
has but one line, is the question, and what stands before it is streamed.
"""

from __future__ import annotations

import json
import lzma
from typing import TYPE_CHECKING, Any

from lalte.evaluation.errors import EvaluationError
from lalte.evaluation.samples import Question, Sample, Told
from lalte.retrofit.corpus import sentences
from lalte.text import Role

if TYPE_CHECKING:
    from pathlib import Path


def read_rows(path: Path) -> list[tuple[str, str]]:
    """Read (text, value) of every line. Raises EvaluationError naming what does not fit."""
    if not path.is_file():
        raise EvaluationError(path, "does not exist; download the data set and give its path")
    data = path.read_bytes()
    if path.suffix == ".xz":
        data = lzma.decompress(data)
    rows: list[tuple[str, str]] = []
    for number, line in enumerate(data.decode().splitlines(), 1):
        try:
            row: Any = json.loads(line)
            rows.append((str(row["text"]), str(row["value"]).strip()))
        except (ValueError, KeyError, TypeError) as error:
            reason = f"line {number} is no JSON object with `text` and `value` ({error!r})"
            raise EvaluationError(path, reason) from error
    return rows


def write_completion(rows: list[tuple[str, str]], index: int) -> Sample:
    """Make the sample of row `index`; the order is the file's."""
    text, value = rows[index % len(rows)]
    context, question = _split(text.rstrip())
    told = (Told(Role.RAW, context),) if context else ()
    return Sample(told, (Question(question, answers=(value,), stop=("\n",)),))


def _split(text: str) -> tuple[str, str]:
    line = text.rfind("\n") + 1
    begin = line or len(text) - len(sentences(text)[-1])
    return text[:begin], text[begin:]
