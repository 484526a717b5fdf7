"""The definition: run the online rule to each query, and look."""

from __future__ import annotations

import torch

from lalte_kernels.retained_update.buffer import Leaving, Retained
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
    nothing = torch.zeros(heads, rows, 0, device=logit.device)
    token = torch.zeros(heads, rows, dtype=torch.int32, device=logit.device)
    kept = Retained(nothing, nothing, logit, position, token)
    for query in range(n):
        leaving = Leaving(
            nothing[:, :1].expand(heads, query, 0),
            nothing[:, :1].expand(heads, query, 0),
            leaving_logit[:, :query],
            token[0, :1].expand(query),
            start - window,
        )
        alive = retained_update(kept, leaving, budgets, sinks).position
        for head in range(heads):
            held = set(alive[head].tolist())
            for row in range(rows):
                at = int(position[head, row])
                visible[head, query, row] = at >= 0 and at in held
            for row in range(window):
                at = start - window + row
                in_window = at >= start + query - window
                visible[head, query, rows + row] = at >= 0 and (in_window or at in held)
    return visible
