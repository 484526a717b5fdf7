"""The definition: run the online rule to each query, and look."""

from __future__ import annotations

import torch

from lalte_kernels.retained_update.reference import retained_update


def retained_visibility(
    logit: torch.Tensor,
    position: torch.Tensor,
    leaving_logit: torch.Tensor,
    window: int,
    start: int,
    budgets: torch.Tensor,
    sinks: int,
) -> torch.Tensor:
    heads, rows = position.shape
    n = leaving_logit.shape[1]
    visible = torch.zeros(heads, n, rows + window, dtype=torch.bool, device=logit.device)
    decided = retained_update(logit, position, leaving_logit, start - window, budgets, sinks, 1)
    for query in range(n):
        for head in range(heads):
            # Rows of [one empty row | retained | leaving], the leaving being the window's first.
            at_first = range(1, 1 + int((position[head] >= 0).sum()))
            held = set(decided[query - 1, head].tolist()) if query else set(at_first)
            for row in range(rows):
                visible[head, query, row] = 1 + row in held
            for row in range(window):
                at = start - window + row
                in_window = at >= start + query - window
                alive = in_window or 1 + rows + row in held
                visible[head, query, rows + row] = at >= 0 and alive
    return visible
