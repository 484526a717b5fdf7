"""The definition: token by token, each either dropped, added, or put in the lowest one's place."""

from __future__ import annotations

from typing import NamedTuple

import torch


class _Token(NamedTuple):
    row: int  # of [one empty row | retained | leaving]
    position: int
    logit: float


def retained_update(
    logit: torch.Tensor,
    position: torch.Tensor,
    leaving_logit: torch.Tensor,
    first_position: int,
    budgets: torch.Tensor,
    sinks: int,
    block: int,
) -> torch.Tensor:
    heads, rows = position.shape
    n = leaving_logit.shape[1]
    result = torch.zeros(n // block, heads, rows, dtype=torch.int64, device=logit.device)
    for head in range(heads):
        held = [
            _Token(1 + row, int(position[head, row]), float(logit[head, row]))
            for row in range(rows)
            if position[head, row] >= 0
        ]
        for i in range(n):
            token = _Token(1 + rows + i, first_position + i, float(leaving_logit[head, i]))
            if token.position >= 0 and (token.position < sinks or token.logit > 0):
                held.append(token)
                if len(held) > int(budgets[head]):
                    held.remove(min(held, key=lambda one: _rank(one, sinks)))
            if (i + 1) % block == 0:
                kept = torch.tensor([one.row for one in held], dtype=torch.int64)
                result[i // block, head, : len(held)] = kept
    return result


def _rank(token: _Token, sinks: int) -> tuple[bool, float, int]:
    """Greater is better. Sinks are compared by age alone."""
    sink = token.position < sinks
    return sink, 0.0 if sink else token.logit, -token.position
