"""LTE's online eviction: which tokens stay when a block's worth of them leaves the window."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lalte_kernels.dispatch import Op
from lalte_kernels.retained_update import cpu, reference
from lalte_kernels.retained_update.buffer import Leaving, Retained

if TYPE_CHECKING:
    import torch

__all__ = ["Leaving", "Retained", "retained_update"]

OP = Op("retained_update", reference.retained_update, cpu.retained_update, gpu=("triton",))


def retained_update(
    kept: Retained, leaving: Leaving, budgets: torch.Tensor, sinks: int
) -> Retained:
    """Decide the tokens that leave the window; keep the best `budgets[h]` of all decided so far.

    A token is worth keeping if it is a sink (position < sinks) or its logit is above 0. Rank:
    sinks first, then the higher logit, then the older token; a total order, so that the outcome
    of deciding tokens one by one, in blocks or all at once is the same.
    budgets: int64 [kv_heads], each at most kept's number of rows. Returns new buffers of kept's
    shapes, in age order, unused rows cleared.
    """
    return OP.run(kept.key.device, kept, leaving, budgets, sinks)
