"""Ordinary short instructions: whether the memory changes replies that need none.

There is no right answer; a reply is compared with the teacher's.
"""

from __future__ import annotations

from importlib.resources import files

from lalte.evaluation.samples import Question, Sample

FIRST_TOKENS = 32


def read_instructions() -> list[str]:
    """The instructions that ship with this package, one a line."""
    text = files("lalte.evaluation").joinpath("instructions.txt").read_text(encoding="utf-8")
    return text.splitlines()


def write_instruction(index: int) -> Sample:
    """Ask instruction `index` of an empty memory."""
    instructions = read_instructions()
    text = instructions[index % len(instructions)]
    return Sample((), (Question(text, raw=False, max_tokens=FIRST_TOKENS),))
