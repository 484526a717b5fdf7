"""What the branches cost in perplexity, beside windows that need no training.

Ratios to the teacher on text that nothing was trained on: e to the difference of the mean losses.
"""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from lalte.retrofit.student import in_parts
from lalte.state import StateSlots

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lalte.model import LaLTE
    from lalte.retrofit.config import ComparisonConfig
    from lalte.retrofit.plain_text import PlainText
    from lalte.retrofit.student import Student

_BLOCKS_AT_ONCE = 8


def held_out(text: PlainText, config: ComparisonConfig, seed: int) -> list[torch.Tensor]:
    """Cut the comparison's sequences out of books: int64 [tokens] each, no framing."""
    return [
        # Text as a seed is hashed the same everywhere.
        torch.tensor(text.passage(random.Random(f"{seed} {i}"), config.tokens)[: config.tokens])  # noqa: S311
        for i in range(config.sequences)
    ]


@torch.no_grad()
def compare(
    student: Student, sequences: Sequence[torch.Tensor], windows: Sequence[int], sinks: int
) -> dict[str, float]:
    """Return the teacher's perplexity, and the ratios to it.

    "gdn": the student, all other layers full. "window {w}": its branches' layers cut to a window
    instead; "window {w}, sinks {s}": the first tokens visible besides.
    """
    taught = _mean([student.loss(student.teacher(x), x) for x in sequences])

    def ratio(losses: list[float]) -> float:
        return round(math.exp(_mean(losses) - taught), 4)

    ratios = {"gdn": ratio([student.loss(student.forward(x), x) for x in sequences])}
    for w in windows:
        for s, name in ((0, f"window {w}"), (sinks, f"window {w}, sinks {sinks}")):
            ratios[name] = ratio([student.loss(student.windowed(x, w, s), x) for x in sequences])
    return {"teacher": round(math.exp(taught), 3)} | ratios


@torch.no_grad()
def served_perplexity(model: LaLTE, sequences: Sequence[torch.Tensor]) -> float:
    """Perplexity of a model that reads each sequence through a state of its own."""
    losses = []
    for tokens in sequences:
        slots = StateSlots.allocate(model.config, 1, model.dtype)
        total = 0.0
        rows = _BLOCKS_AT_ONCE * model.config.chunk
        for first in range(0, len(tokens), rows):
            piece = tokens[first : first + rows]
            logits = model.forward(piece[None], slots.view(0))[0]
            after = tokens[first + 1 : first + 1 + len(piece)]
            total += sum(
                float(functional.cross_entropy(x, y, reduction="sum"))
                for x, y in zip(in_parts(logits[: len(after)]), in_parts(after), strict=True)
            )
        losses.append(total / (len(tokens) - 1))
    return math.exp(_mean(losses))


def _mean(losses: Sequence[float]) -> float:
    return sum(losses) / len(losses)
