"""Ordinary sequences of one length: books as running text, dialogues and documents as turns.

A sequence is a function of (corpus, seed, index), so that a run can be resumed, and repeated.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import torch

from lalte.text import Role

if TYPE_CHECKING:
    from lalte.retrofit.corpus import Corpus
    from lalte.text import Tokenizer, TurnFormat

_SPEAKERS = {"user": Role.USER, "system": Role.ASSISTANT}
_CHARACTERS_PER_TOKEN = 6  # more than text has, so that a passage is long enough
_DIALOGUES, _DOCUMENTS = 0.25, 0.15  # shares of sequences; the rest are books as they are


class PlainText:
    """Writes sequences for one tokenizer over one corpus."""

    def __init__(self, corpus: Corpus, tokenizer: Tokenizer, turns: TurnFormat) -> None:
        self._corpus = corpus
        self._tokenizer = tokenizer
        self._turns = turns

    def write(self, seed: int, index: int, length: int) -> torch.Tensor:
        """Write sequence `index` of `seed`: int64 [length]."""
        # Text as a seed is hashed the same everywhere.
        rng = random.Random(f"plain text {seed} {index}")  # noqa: S311  nothing secret
        kind = rng.random()
        if kind < _DIALOGUES:
            ids = self._dialogues(rng, length)
        else:
            role = Role.DOCUMENT if kind < _DIALOGUES + _DOCUMENTS else Role.RAW
            ids = self._turns.start(role) + self._turns.open(role)
            ids += self.passage(rng, length)
        return torch.tensor(ids[:length])

    def passage(self, rng: random.Random, length: int) -> list[int]:
        """Cut at least `length` tokens out of the books."""
        ids: list[int] = []
        while len(ids) < length:
            ids += self._tokenizer.encode_plain(
                self._corpus.passage(rng, length * _CHARACTERS_PER_TOKEN)
            )
        return ids

    def _dialogues(self, rng: random.Random, length: int) -> list[int]:
        ids = self._turns.start(Role.USER)
        while len(ids) < length:
            for speaker, text in rng.choice(self._corpus.dialogues):
                role = _SPEAKERS.get(speaker, Role.USER)
                content = self._tokenizer.encode_plain(text)
                ids += self._turns.open(role) + content + self._turns.close(role)
        return ids
