"""All heads, tokens and blocks at once: one sort by rank, then counts along it.

In order of rank, a token is held after a block if it is decided by then and fewer than `budget`
decided ones stand before it.
"""

from __future__ import annotations

import torch

from lalte_kernels.retained_update.rank import order_by_rank, worth_keeping


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
    blocks, total = n // block, rows + n
    device = logit.device
    leaving = torch.arange(n, device=device)
    logit = torch.cat([logit, leaving_logit], dim=1)
    position = torch.cat([position, (leaving + first_position).expand(heads, n)], dim=1)
    decided_in = torch.cat([leaving.new_zeros(rows), leaving // block])

    order = order_by_rank(logit, position, sinks)
    worth = worth_keeping(logit, position, sinks).gather(1, order)
    by_then = torch.arange(blocks, device=device)[:, None, None]
    decided = worth & (decided_in[order] <= by_then)
    held = decided & (decided.cumsum(dim=-1) <= budgets[:, None])

    # Back to age order; the held ones then stand in their places, all others in one place behind.
    held = torch.empty_like(held).scatter_(-1, order.expand(blocks, heads, total), held)
    place = (held.cumsum(dim=-1) - 1).masked_fill_(~held, rows)
    candidates = torch.arange(1, total + 1, device=device).expand(blocks, heads, total)
    result = place.new_zeros(blocks, heads, rows + 1).scatter_(-1, place, candidates)
    return result[..., :rows]
