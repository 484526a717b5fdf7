"""How well a stream's next token is foreseen, by its place in the stream.

The text is read once, from an empty memory on; each token is predicted from all before it. A
session shows no probabilities, so this runs in the process, over the same states.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from lalte.evaluation.dense import DenseModel

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lalte.evaluation.variants import Memory
    from lalte.model import LaLTE

_FIRST_BORDERS = (0, 2048, 8192)
_BLOCK = 8192
_CHUNKS_AT_ONCE = 8
RUN_UP = 4096
"""Tokens that a fresh memory reads before each block."""


@dataclass(frozen=True)
class Foreseen:
    """For each token but a stream's first: its negative log probability, whether it was likeliest.

    loss: fp64 [n - 1], in nats. right: bool [n - 1].
    """

    loss: torch.Tensor
    right: torch.Tensor


@dataclass(frozen=True)
class Block:
    """Perplexity over the tokens at positions [first, last)."""

    first: int
    last: int
    perplexity: float


def foresee(memory: Memory, ids: list[int]) -> Foreseen:
    """Read a stream with a memory of fixed size."""
    return _foreseen(ids, _state_logits(memory, ids))


def foresee_freshly(memory: Memory, ids: list[int]) -> Foreseen:
    """Read each of a stream's blocks with a memory that began RUN_UP tokens before it.

    What a block's text demands, without what the memory has kept of all before: a stream that is
    foreseen as well has lost nothing by its length.
    """
    parts = []
    for first, last in _borders(len(ids)):
        begin = max(first - RUN_UP, 0)
        found = foresee(memory, ids[begin:last])
        seen = max(first, 1) - begin - 1
        parts.append(Foreseen(found.loss[seen:], found.right[seen:]))
    return Foreseen(
        torch.cat([part.loss for part in parts]), torch.cat([part.right for part in parts])
    )


def foresee_densely(model: LaLTE, ids: list[int]) -> Foreseen:
    """Read a stream with full attention. Raises EvaluationError, see DenseModel."""
    dense = DenseModel(model)
    return _foreseen(ids, (dense.logits(rows) for rows in dense.read(ids)))


def blocks(streams: Sequence[Foreseen]) -> list[Block]:
    """Perplexity of [0, 2K), [2K, 8K), and each 8K behind it, over streams of one length."""
    loss = torch.stack([stream.loss for stream in streams])
    # Column i of `loss` is the token at position i + 1.
    return [
        Block(first, last, math.exp(loss[:, max(first, 1) - 1 : last - 1].mean()))
        for first, last in _borders(loss.shape[1] + 1)
    ]


def perplexity(streams: Sequence[Foreseen]) -> float:
    """Over all tokens of all streams."""
    return math.exp(torch.cat([stream.loss for stream in streams]).mean())


def _borders(tokens: int) -> Iterator[tuple[int, int]]:
    """The blocks of a stream of so many tokens: positions [first, last)."""
    borders = [border for border in _FIRST_BORDERS if border < tokens]
    borders += [*range(borders[-1] + _BLOCK, tokens, _BLOCK)] if borders[-1] == _BLOCK else []
    return pairwise([*borders, tokens])


def _state_logits(memory: Memory, ids: list[int]) -> Iterator[torch.Tensor]:
    """Logits behind each token, [rows, vocab] at a time."""
    view = memory.allocate(1).view(0)
    rows = _CHUNKS_AT_ONCE * memory.model.config.chunk
    for first in range(0, len(ids), rows):
        yield memory.model.forward(torch.tensor([ids[first : first + rows]]), view)[0]


def _foreseen(ids: list[int], logits: Iterator[torch.Tensor]) -> Foreseen:
    loss, right = [], []
    place = 1
    for rows in logits:
        targets = torch.tensor(ids[place : place + rows.shape[0]])
        rows = rows[: targets.shape[0]]  # nothing follows the stream's last token
        loss.append(functional.cross_entropy(rows, targets, reduction="none").double())
        right.append(rows.argmax(dim=-1) == targets)
        place += targets.shape[0]
    return Foreseen(torch.cat(loss), torch.cat(right))
