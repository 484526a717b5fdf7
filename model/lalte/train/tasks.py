"""Synthetic sequences that can be answered only by remembering.

Two tasks for models trained from scratch. MQAR (multi-query associative recall; S. Arora et al.,
"Zoology", arXiv 2312.04927): key-value pairs first, then the keys again, each to be answered with
its value. Needles: pairs hidden in noise, asked for in one block at the very end, so that the
distance from telling to asking grows with the length.

Ids: 0 is noise's separator, 1 marks a needle, 2 begins the questions; keys, values and noise have
ranges of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

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
    as a quarter keys, a quarter values, the rest noise.
    """

    name: TaskName
    length: int
    pairs: int
    vocab_size: int

    def __post_init__(self) -> None:
        least = 4 * self.pairs if self.name == "mqar" else 7 * self.pairs + 1
        if self.length < least:
            raise TrainError(
                self.name, f"{self.pairs} pairs need a length of at least {least}: {self.length}"
            )
        if self.symbols < self.pairs:
            raise TrainError(
                self.name, f"a vocabulary of {self.vocab_size} has keys for {self.symbols} pairs"
            )

    @property
    def symbols(self) -> int:
        """How many different keys there are, and how many values."""
        return (self.vocab_size - _FIRST_SYMBOL) // 4

    def sample(self, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw one sequence: (inputs, targets), int64 [length]; IGNORED where nothing is asked."""
        keys = torch.randperm(self.symbols, generator=generator)[: self.pairs] + _FIRST_SYMBOL
        values = torch.randint(self.symbols, (self.pairs,), generator=generator)
        values += _FIRST_SYMBOL + self.symbols
        first_noise = _FIRST_SYMBOL + 2 * self.symbols
        tokens = torch.randint(first_noise, self.vocab_size, (self.length,), generator=generator)
        targets = torch.full((self.length,), IGNORED)
        if self.name == "mqar":
            self._associate(tokens, targets, keys, values, generator)
        else:
            self._hide(tokens, targets, keys, values, generator)
        return tokens, targets

    def _associate(
        self,
        tokens: torch.Tensor,
        targets: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        generator: torch.Generator,
    ) -> None:
        told = 2 * self.pairs
        tokens[0:told:2], tokens[1:told:2] = keys, values
        places = told + torch.randperm(self.length - told, generator=generator)[: self.pairs]
        tokens[places], targets[places] = keys, values

    def _hide(
        self,
        tokens: torch.Tensor,
        targets: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        generator: torch.Generator,
    ) -> None:
        asked = self.length - 2 * self.pairs - 1
        # Places of three tokens each, so that needles never overlap.
        places = 3 * torch.randperm(asked // 3, generator=generator)[: self.pairs]
        tokens[places], tokens[places + 1], tokens[places + 2] = _MARK, keys, values
        tokens[asked] = _ASK
        order = torch.randperm(self.pairs, generator=generator)
        questions = asked + 1 + 2 * torch.arange(self.pairs)
        tokens[questions], tokens[questions + 1] = keys[order], values[order]
        targets[questions] = values[order]


class TaskBatches:
    """Endless sequences of one task, a function of (seed, index) alone."""

    def __init__(self, task: RecallTask, seed: int) -> None:
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
