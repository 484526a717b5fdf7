"""The total order of eviction, as integers."""

from __future__ import annotations

import torch


def worth_keeping(logit: torch.Tensor, position: torch.Tensor, sinks: int) -> torch.Tensor:
    """Whether each candidate may be retained at all. Positions below 0 hold no token."""
    return (position >= 0) & ((position < sinks) | (logit > 0))


def order_by_rank(logit: torch.Tensor, position: torch.Tensor, sinks: int) -> torch.Tensor:
    """The candidates of each head, the best first; those not worth keeping come last.

    logit, position: [kv_heads, candidates], candidates in age order. Returns int64, same shape.
    """
    worth = worth_keeping(logit, position, sinks)
    score = torch.where(position < sinks, float("inf"), logit)
    score = torch.where(worth, score, float("-inf"))
    # Stable, and candidates stand in age order: among equals the older one comes first.
    return score.sort(dim=-1, descending=True, stable=True).indices


def ranks(logit: torch.Tensor, position: torch.Tensor, sinks: int) -> torch.Tensor:
    """Place of each candidate in its head's order, 0 the best.

    logit, position: [kv_heads, candidates], candidates in age order. Returns int64, same shape.
    """
    order = order_by_rank(logit, position, sinks)
    place = torch.arange(order.shape[-1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(-1, order, place)
