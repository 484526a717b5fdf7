"""Documents with words of their own, so that memory pays, and pays in degrees.

Recall tasks make a token worth everything or nothing. Here each of a document's own words tells
what may come again, common words tell nothing, and what was met before tells little: a head that
may keep more gains more, and with each token less, as with text. That shows what a controller of
retention does in a run of a minute.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lalte.train.errors import TrainError

_OWN = 0.8  # the part of a document's tokens that are its own words


@dataclass(frozen=True)
class TopicTask:
    """Documents of one length.

    words: how many a document has of its own, drawn from three quarters of the vocabulary; the
    first quarter is common to all.
    """

    length: int
    words: int
    vocab_size: int

    def __post_init__(self) -> None:
        if not 0 < self.words <= self.vocab_size - self.common or not self.common:
            raise TrainError(
                "words",
                f"{self.words} of a document's own need a vocabulary with more than that in three "
                f"quarters of it: {self.vocab_size} has {self.vocab_size - self.common}",
            )

    @property
    def common(self) -> int:
        """How many words are common to all documents."""
        return self.vocab_size // 4

    def sample(self, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw one document: (inputs, targets), int64 [length]; every next token is asked for."""
        rare = self.vocab_size - self.common
        own = self.common + torch.randperm(rare, generator=generator)[: self.words]
        often = torch.zeros(self.vocab_size)
        often[: self.common] = (1 - _OWN) / self.common
        often[own] = _OWN / self.words
        tokens = torch.multinomial(often, self.length + 1, replacement=True, generator=generator)
        return tokens[:-1], tokens[1:]
