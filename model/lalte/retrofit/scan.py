"""Finds the layers whose attention is local: those that a window, or a GDN layer, can replace.

Each layer alone is cut to a small window beside the sinks that a GDN layer would keep (without its
sinks many a local layer looks as if it saw far); then, one by one, the layer joins the chosen that
adds least to what they lose together. What counts is the mean KL of the cut model's predictions
from the whole one's. Every measurement is noted when it is made, so that a scan can go on where it
stopped.
"""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING

import torch

from lalte.retrofit.student import in_parts
from lalte.retrofit.whole import (
    attending,
    attention_inputs,
    full_attention,
    window_attention,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

    from lalte.retrofit.config import ScanConfig
    from lalte.retrofit.student import Student

_log = logging.getLogger(__name__)

SCAN_FILE = "scan.json"


def scan(
    teacher: Student,
    sequences: Sequence[torch.Tensor],
    config: ScanConfig,
    run: Path,
    *,
    sinks: int,
) -> list[int]:
    """Return the chosen layers, rising; the file in `run` holds every measurement.

    teacher: a student without branches. sequences: int64 [n] each. sinks: first tokens that a layer
    goes on seeing.
    """
    run.mkdir(parents=True, exist_ok=True)
    notes = _Notes(run / SCAN_FILE)
    scanner = _Scanner(teacher, sequences, config.window, sinks)
    depth = len(scanner.blocks)
    alone = {layer: notes.value(scanner, [], layer) for layer in range(depth)}
    candidates = sorted(alone, key=alone.__getitem__)[: config.candidates]
    chosen: list[int] = []
    while len(chosen) < config.layers:
        left = [layer for layer in candidates if layer not in chosen]
        together = {layer: notes.value(scanner, chosen, layer) for layer in left}
        chosen.append(min(together, key=together.__getitem__))
        _log.info("layers %s lose %.4f nats", sorted(chosen), together[chosen[-1]])
    return sorted(chosen)


class _Notes:
    """Losses by the layers that were cut, in a JSON file; what is not in it is measured."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._losses: dict[str, float] = {}
        if path.exists():
            self._losses = json.loads(path.read_text(encoding="utf-8"))

    def value(self, scanner: _Scanner, chosen: Sequence[int], layer: int) -> float:
        name = " ".join(map(str, sorted([*chosen, layer])))
        if name not in self._losses:
            self._losses[name] = round(scanner.loss(chosen, layer), 6)
            text = json.dumps(self._losses, indent=1) + "\n"
            self._path.write_text(text, encoding="utf-8")
        return self._losses[name]


class _Scanner:
    """Keeps each layer's input under the chosen cuts: a change costs the layers above it only."""

    def __init__(
        self, teacher: Student, sequences: Sequence[torch.Tensor], window: int, sinks: int
    ) -> None:
        self.blocks = teacher.model.blocks()
        self._teacher = teacher
        self._window = window
        self._sinks = sinks
        self._cut: list[int] = []
        with torch.no_grad():
            starts = [teacher.model.model.embeddings(tokens) for tokens in sequences]
            self._inputs = [self._through(x, 0, []) for x in starts]
            self._targets = [
                torch.cat([self._predict(part) for part in in_parts(rows[-1])])
                for rows in self._inputs
            ]

    @torch.no_grad()
    def loss(self, chosen: Collection[int], layer: int) -> float:
        """Mean KL, in nats, with `chosen` and `layer` cut."""
        if set(chosen) != set(self._cut):
            first = min(set(chosen) ^ set(self._cut))
            self._cut = list(chosen)
            self._inputs = [
                rows[:first] + self._through(rows[first], first, chosen) for rows in self._inputs
            ]
        total, count = 0.0, 0
        for rows, targets in zip(self._inputs, self._targets, strict=True):
            last = self._through(rows[layer], layer, {*chosen, layer})[-1]
            for part, target in zip(in_parts(last), in_parts(targets), strict=True):
                wanted = target.float()
                gap = wanted - self._teacher.logits(part).log_softmax(dim=-1)
                total += float((wanted.exp() * gap).sum())
            count += len(last)
        return total / count

    def _through(self, x: torch.Tensor, first: int, cut: Collection[int]) -> list[torch.Tensor]:
        """Return the rows that enter layers first, first + 1, .., and those that leave the last."""
        rows = [x]
        for index in range(first, len(self.blocks)):
            block = self.blocks[index]
            inputs = attention_inputs(block, block.attn_norm(x))
            if index in cut:
                mixed = window_attention(attending(block), inputs, self._window, sinks=self._sinks)
            else:
                mixed = full_attention(attending(block), inputs)
            x = block.finish(x, mixed)
            rows.append(x)
        return rows

    def _predict(self, rows: torch.Tensor) -> torch.Tensor:
        # Half precision: a vocabulary's worth of log probabilities for every row is kept.
        return self._teacher.logits(rows).log_softmax(dim=-1).to(torch.bfloat16)
