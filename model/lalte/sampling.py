"""Draws the next token from logits.

The random number for a token is a function of (seed, position) alone, so a generation that was cut
off and continued elsewhere draws what an uninterrupted one would have drawn.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence


class SamplingError(ValueError):
    """A sampling parameter is out of range: `field` with `value`."""

    def __init__(self, field: str, value: float, allowed: str) -> None:
        self.field = field
        self.value = value
        super().__init__(f"sampling parameter {field} is {value}; it must be {allowed}")


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How one reply is sampled.

    temperature: 0 is greedy; otherwise logits are divided by it.
    top_k: keep the k most likely tokens; 0 keeps all.
    top_p: then keep the smallest set of tokens whose probability reaches p (Holtzman et al. 2020).
    repetition_penalty: > 1 makes tokens of the history less likely (Keskar et al. 2019); 1 is off.
    seed: any 64-bit integer.
    max_tokens: the longest reply; enforced by the caller.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int = 0
    max_tokens: int = 256

    def __post_init__(self) -> None:
        self._require("temperature", 0 <= self.temperature < math.inf, "a number >= 0")
        self._require("top_k", self.top_k >= 0, ">= 0 (0 keeps all tokens)")
        self._require("top_p", 0 < self.top_p <= 1, "in (0, 1]")
        self._require(
            "repetition_penalty", 0 < self.repetition_penalty < math.inf, "a number > 0 (1 is off)"
        )
        self._require("seed", -(2**63) <= self.seed < 2**63, "a signed 64-bit integer")
        self._require("max_tokens", self.max_tokens >= 1, ">= 1")

    def _require(self, field: str, holds: bool, allowed: str) -> None:
        if not holds:
            raise SamplingError(field, getattr(self, field), allowed)


def sample(
    logits: Tensor,
    params: Sequence[SamplingParams],
    histories: Sequence[Sequence[int]],
    positions: Sequence[int],
) -> list[int]:
    """One id for each lane.

    logits: [lanes, vocab]; left unchanged.
    histories: the ids the repetition penalty looks at, per lane.
    positions: the index, in its stream, of the token each lane draws.
    """
    lanes = zip(logits, params, histories, positions, strict=True)
    return [_sample_lane(row, p, history, position) for row, p, history, position in lanes]


def uniform(seed: int, position: int) -> float:
    """Return a number in [0, 1) with 53 random bits, the same on every machine."""
    message = seed.to_bytes(8, "little", signed=True) + position.to_bytes(8, "little")
    digest = hashlib.blake2b(message, digest_size=8, person=b"lalte.sampling").digest()
    return (int.from_bytes(digest, "little") >> 11) * 2.0**-53


def _sample_lane(row: Tensor, params: SamplingParams, history: Sequence[int], position: int) -> int:
    """row: [vocab]."""
    if params.repetition_penalty != 1 and history:
        row = _penalised(row.float(), history, params.repetition_penalty)
    if params.temperature == 0:
        return int(row.argmax())
    # Double precision from here on: the inverse of a 49152-term cumulative sum must not miss.
    values, ids = (row.double() / params.temperature).sort(descending=True, stable=True)
    if params.top_k:
        values, ids = values[: params.top_k], ids[: params.top_k]
    cumulative = values.softmax(0).cumsum(0)
    if params.top_p < 1:
        kept = 1 + int((cumulative < params.top_p).sum())
        cumulative = cumulative[:kept]
    point = uniform(params.seed, position) * float(cumulative[-1])
    chosen = int(torch.searchsorted(cumulative, point, right=True))
    return int(ids[min(chosen, len(cumulative) - 1)])


def _penalised(row: Tensor, history: Sequence[int], penalty: float) -> Tensor:
    seen = torch.tensor(sorted(set(history)), device=row.device)
    scores = row[seen]
    return row.index_put((seen,), torch.where(scores > 0, scores / penalty, scores * penalty))
