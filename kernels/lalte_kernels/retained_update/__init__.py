"""LTE's online eviction: which tokens stay as blocks of them leave the window."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lalte_kernels.dispatch import Op
from lalte_kernels.retained_update import cpu, reference

if TYPE_CHECKING:
    import torch

OP = Op(
    "retained_update",
    reference.retained_update,
    cpu.retained_update,
    gpu=("triton",),
    portable=True,
)


def retained_update(
    logit: torch.Tensor,
    position: torch.Tensor,
    leaving_logit: torch.Tensor,
    first_position: int,
    budgets: torch.Tensor,
    sinks: int,
    block: int,
) -> torch.Tensor:
    """Decide the tokens that leave the window; keep the best `budgets[h]` of all decided so far.

    A token is worth keeping if it is a sink (position < sinks) or its logit is above 0. Rank:
    sinks first, then the higher logit, then the older token; a total order, so that the outcome
    of deciding tokens one by one, in blocks or all at once is the same.
    logit, position: [kv_heads, rows], the retained tokens, oldest first; unused rows come last and
    have position -1. leaving_logit: [kv_heads, blocks * block], of consecutive younger tokens from
    first_position on; positions below 0 hold no token. budgets: int64 [kv_heads], at most `rows`.
    Returns int64 [blocks, kv_heads, rows]: what is held once each block is decided, oldest first,
    as rows of [one empty row | retained | leaving]; an unused row is the empty one, 0.
    """
    return OP.run(
        logit.device, logit, position, leaving_logit, first_position, budgets, sinks, block
    )
