"""Sequences to distil on: ordinary text, streams that tell facts and ask for them, own replies.

A sequence is a function of its sources, seed and index, so that a run can be resumed, and repeated.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from lalte.text import Role

if TYPE_CHECKING:
    from lalte.retrofit.data import StreamWriter
    from lalte.retrofit.plain_text import PlainText
    from lalte.text import TurnFormat


@dataclass(frozen=True)
class Lessons:
    """text: ordinary sequences. streams: facts told and asked for, shorter than a sequence.

    replies: requests with the teacher's answers, as ids (see `lalte.retrofit.replies`); a sequence
    is filled with some, one after the other. memory, chat: the shares of streams and replies among
    all sequences.
    """

    text: PlainText
    streams: StreamWriter
    replies: list[list[int]]
    turns: TurnFormat
    memory: float
    chat: float

    def write(self, seed: int, index: int, length: int) -> torch.Tensor:
        """Write sequence `index` of `seed`: int64 [length]."""
        # Text as a seed is hashed the same everywhere.
        rng = random.Random(f"lesson {seed} {index}")  # noqa: S311  nothing secret
        kind = rng.random()
        if kind < self.chat:
            ids = self.turns.start(Role.USER)
            while len(ids) < length:
                ids += rng.choice(self.replies)
            return torch.tensor(ids[:length])
        if kind < self.chat + self.memory:
            told = self.streams.write(seed, index).tokens[:length]
            return torch.cat([told, self.text.write(seed, index, length)[: length - len(told)]])
        return self.text.write(seed, index, length)
