"""Synthetic sequences that can be answered only by remembering.

Two tasks for models trained from scratch. MQAR (multi-query associative recall; S. Arora et al.,
"Zoology", arXiv 2312.04927): key-value pairs first, then keys again, scattered over noise, each to
be answered with its value. Needles: pairs hidden in noise, their keys asked for in one block at the
very end, so that the distance from telling to asking grows with the length.

Ids: 0 is noise's separator, 1 marks a needle, 2 begins the questions; keys, values and noise have
ranges of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import torch

from lalte.train.errors import TrainError

if TYPE_CHECKING:
    from collections.abc import Sequence

IGNORED = -100  # the target of a position that asks nothing
_MARK, _ASK, _FIRST_SYMBOL = 1, 2, 3

TaskName = Literal["mqar", "needle"]


@dataclass(frozen=True)
class RecallTask:
    """A task at one length.

    name: which. length: tokens of a sequence. pairs: associations in each. vocab_size: shared out
    as a quarter keys, a quarter values, the rest noise. questions: how many places ask, or None
    for one a pair; each key is asked before any is asked again.
    """

    name: TaskName
    length: int
    pairs: int
    vocab_size: int
    questions: int | None = None

    def __post_init__(self) -> None:
        told = 2 * self.pairs if self.name == "mqar" else 3 * self.pairs + 1
        least = told + self.asked
        if self.length < least:
            raise TrainError(
                self.name,
                f"{self.pairs} pairs and {self.asked} questions need a length of at least {least}: "
                f"{self.length}",
            )
        if self.symbols < self.pairs:
            raise TrainError(
                self.name, f"a vocabulary of {self.vocab_size} has keys for {self.symbols} pairs"
            )

    @property
    def symbols(self) -> int:
        """How many different keys there are, and how many values."""
        return (self.vocab_size - _FIRST_SYMBOL) // 4

    @property
    def asked(self) -> int:
        """How many places of a sequence ask."""
        return self.pairs if self.questions is None else self.questions

    def sample(self, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw one sequence: (inputs, targets), int64 [length]; IGNORED where nothing is asked."""
        keys = torch.randperm(self.symbols, generator=generator)[: self.pairs] + _FIRST_SYMBOL
        values = torch.randint(self.symbols, (self.pairs,), generator=generator)
        values += _FIRST_SYMBOL + self.symbols
        first_noise = _FIRST_SYMBOL + 2 * self.symbols
        tokens = torch.randint(first_noise, self.vocab_size, (self.length,), generator=generator)
        targets = torch.full((self.length,), IGNORED)
        if self.name == "mqar":
            told = 2 * self.pairs
            tokens[0:told:2], tokens[1:told:2] = keys, values
            places = told + torch.randperm(self.length - told, generator=generator)[: self.asked]
        else:
            ask = self.length - self.asked - 1
            # Places of three tokens each, so that needles never overlap.
            marks = 3 * torch.randperm(ask // 3, generator=generator)[: self.pairs]
            tokens[marks], tokens[marks + 1], tokens[marks + 2] = _MARK, keys, values
            tokens[ask] = _ASK
            places = ask + 1 + torch.arange(self.asked)
        which = self._order(generator)
        tokens[places], targets[places] = keys[which], values[which]
        return tokens, targets

    def _order(self, generator: torch.Generator) -> torch.Tensor:
        """Draw which pair each question is about, int64 [asked]."""
        rounds = -(-self.asked // self.pairs)
        drawn = [torch.randperm(self.pairs, generator=generator) for _ in range(rounds)]
        return torch.cat(drawn)[: self.asked]


def distances(tokens: torch.Tensor) -> torch.Tensor:
    """How far back each token of a sequence was met first: int64 [n] of [n], 0 where it is new.

    Of a question it is the distance to where its key was told.
    """
    first = (tokens[:, None] == tokens).int().argmax(dim=-1)
    return torch.arange(len(tokens)) - first


class Task(Protocol):
    """Draws one sequence: (inputs, targets), int64 [length]."""

    def sample(self, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]: ...


class TaskBatches:
    """Endless sequences of one task, a function of (seed, index) alone."""

    def __init__(self, task: Task, seed: int) -> None:
        self._task = task
        self._seed = seed

    def batch(self, first: int, rows: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Sequences number first + row for each of `rows`; (inputs, targets), int64 [rows, n]."""
        drawn = [
            self._task.sample(
                torch.Generator().manual_seed(self._seed * 1_000_000_007 + first + row)
            )
            for row in rows
        ]
        return torch.stack([x for x, _ in drawn]), torch.stack([y for _, y in drawn])
