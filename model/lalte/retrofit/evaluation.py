"""Asks a model for needles the way a session is asked: nothing is simulated.

The context is absorbed block by block into a state of fixed size; the rest of it and the question
are read by a copy of that state, which then writes the reply greedily.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from lalte.config import LTEConfig
from lalte.model import LaLTE
from lalte.retrofit.needles import write_sample
from lalte.state import StateSlots, copy_slot

if TYPE_CHECKING:
    from lalte.retrofit.corpus import Corpus
    from lalte.retrofit.needles import Sample, Task
    from lalte.text import Tokenizer

_BLOCKS_AT_ONCE = 16
_REPLY_TOKENS = 48


@dataclass(frozen=True)
class Outcome:
    """reply: what was written. right: whether it contains the value, in any case.

    kept: per LTE layer and KV head, the share of the value's tokens that were retained (or still
    stood in the window) when the question came.
    """

    reply: str
    right: bool
    kept: list[list[float]]


@dataclass(frozen=True)
class Cell:
    """One task at one length. kept: mean over samples, heads and the value's tokens."""

    task: Task
    length: int
    samples: int
    seed: int
    right: int
    kept: float
    heads_keeping: int  # of all heads: those that kept 95 % or more of the values' tokens

    @property
    def accuracy(self) -> float:
        return self.right / self.samples

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's, at 95 %."""
        z, n, p = 1.96, self.samples, self.accuracy
        centre = p + z * z / (2 * n)
        spread = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        scale = 1 + z * z / n
        return (centre - spread) / scale, (centre + spread) / scale

    def facts(self) -> dict[str, Any]:
        """Everything a table needs, for JSON."""
        ci95 = [round(x, 3) for x in self.interval]
        return asdict(self) | {"accuracy": self.accuracy, "ci95": ci95}


def measure(
    model: LaLTE,
    tokenizer: Tokenizer,
    corpus: Corpus,
    task: Task,
    length: int,
    samples: int,
    seed: int,
) -> Cell:
    """Ask `samples` samples of one task and length."""
    outcomes = [
        answer(model, tokenizer, write_sample(corpus, tokenizer, task, length, seed, index))
        for index in range(samples)
    ]
    kept = torch.tensor([outcome.kept for outcome in outcomes]).mean(dim=0)
    right = sum(outcome.right for outcome in outcomes)
    return Cell(
        task, length, samples, seed, right, round(float(kept.mean()), 3), int((kept >= 0.95).sum())
    )


def sinks_alone(model: LaLTE) -> LaLTE:
    """Return the same weights with room for nothing but the sinks beside the window."""
    layers = tuple(
        replace(layer, budgets=(layer.sinks,) * len(layer.budgets))
        if isinstance(layer, LTEConfig)
        else layer
        for layer in model.config.layers
    )
    other = LaLTE(replace(model.config, layers=layers), model.dtype)
    other.load_state_dict(model.state_dict())
    return other


def answer(model: LaLTE, tokenizer: Tokenizer, sample: Sample) -> Outcome:
    """Stream a sample's context into a fresh session and ask."""
    slots = StateSlots.allocate(model.config, 2, model.dtype)
    ids = tokenizer.encode_plain(sample.context)
    absorbed = absorb_all(model, slots, ids)
    kept = _kept(slots, model, tokenizer, ids, sample.value, absorbed)

    copy_slot(slots, 0, slots, 1)
    view = slots.view(1)
    tail = ids[absorbed:] + tokenizer.encode_plain(sample.question)
    logits = model.extend(torch.tensor(tail), view)
    written: list[int] = []
    while len(written) < _REPLY_TOKENS:
        written.append(int(logits.argmax()))
        reply = tokenizer.decode(written)
        if sample.value.lower() in reply.lower():
            return Outcome(reply, True, kept)
        logits = model.step(torch.tensor(written[-1:]), view)[0]
    return Outcome(tokenizer.decode(written), False, kept)


def absorb_all(model: LaLTE, slots: StateSlots, ids: list[int]) -> int:
    """Absorb the whole blocks of a stream into slot 0; returns how many tokens those are."""
    chunk = model.config.chunk
    whole = len(ids) - len(ids) % chunk
    tokens = torch.tensor(ids[:whole])
    for piece in tokens.split(chunk * _BLOCKS_AT_ONCE):  # type: ignore[no-untyped-call]
        model.absorb(piece[None], [slots.view(0)])
    return whole


def _kept(
    slots: StateSlots,
    model: LaLTE,
    tokenizer: Tokenizer,
    ids: list[int],
    value: str,
    absorbed: int,
) -> list[list[float]]:
    positions = value_positions(tokenizer, ids, value)
    shares: dict[int, list[float]] = {}
    for retained in slots.retained(0):
        layer = model.config.layers[retained.layer]
        window = layer.window if isinstance(layer, LTEConfig) else 0
        alive = set(retained.positions)
        found = sum(p in alive or p >= absorbed - window for p in positions)
        shares.setdefault(retained.layer, []).append(found / len(positions))
    return [shares[layer] for layer in sorted(shares)]


def value_positions(tokenizer: Tokenizer, ids: list[int], value: str) -> list[int]:
    """Positions of the tokens that write the first occurrence of `value`."""
    parts = [tokenizer.token_bytes(token) for token in ids]
    begin = b"".join(parts).index(value.encode())
    end = begin + len(value.encode())
    positions, place = [], 0
    for position, part in enumerate(parts):
        if place < end and place + len(part) > begin:
            positions.append(position)
        place += len(part)
    return positions
