"""The definition: token by token, each either dropped, added, or put in the lowest one's place."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from lalte_kernels.retained_update.buffer import Retained

if TYPE_CHECKING:
    from lalte_kernels.retained_update.buffer import Leaving


def retained_update(
    kept: Retained, leaving: Leaving, budgets: torch.Tensor, sinks: int
) -> Retained:
    result = Retained(*(torch.zeros_like(x) for x in kept))
    result.position.fill_(-1)
    for head in range(kept.key.shape[0]):
        budget = int(budgets[head])
        rows: list[tuple[torch.Tensor, ...]] = [
            tuple(x[head, row] for x in kept)
            for row in range(kept.key.shape[1])
            if kept.position[head, row] >= 0
        ]
        for n in range(leaving.key.shape[1]):
            position = torch.tensor(leaving.first_position + n)
            worth = position < sinks or leaving.logit[head, n] > 0
            if position < 0 or not worth:
                continue
            token = leaving.token[n]
            rows.append(
                (
                    leaving.key[head, n],
                    leaving.value[head, n],
                    leaving.logit[head, n],
                    position,
                    token,
                )
            )
            if len(rows) > budget:
                lowest = min(range(len(rows)), key=lambda i: _rank(rows[i], sinks))
                del rows[lowest]
        for row, values in enumerate(rows):
            for target, value in zip(result, values, strict=True):
                target[head, row] = value
    return result


def _rank(row: tuple[torch.Tensor, ...], sinks: int) -> tuple[bool, float, int]:
    """Greater is better. Sinks are compared by age alone."""
    _, _, logit, position, _ = row
    sink = int(position) < sinks
    return sink, 0.0 if sink else float(logit), -int(position)
