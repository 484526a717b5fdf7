"""What each query of a block sees of the past when eviction goes on inside the block (G = 1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lalte_kernels.dispatch import Op
from lalte_kernels.retained_visibility import cpu, reference

if TYPE_CHECKING:
    import torch

OP = Op(
    "retained_visibility",
    reference.retained_visibility,
    cpu.retained_visibility,
    gpu=("triton",),
    portable=True,
)


def retained_visibility(
    logit: torch.Tensor,
    position: torch.Tensor,
    leaving_logit: torch.Tensor,
    window: int,
    start: int,
    budgets: torch.Tensor,
    sinks: int,
) -> torch.Tensor:
    """Return the visible sets Z of queries start .. start + n - 1, over [retained | window].

    Query i sees j >= i - window, and of the older tokens those that retained_update would hold
    once every j < i - window is decided.
    logit, position: [kv_heads, rows], the retained tokens at `start`. leaving_logit: [kv_heads, n],
    of the tokens from start - window on. budgets: int64 [kv_heads]. n is at most `window`.
    Returns bool [kv_heads, n, rows + window].
    """
    return OP.run(logit.device, logit, position, leaving_logit, window, start, budgets, sinks)
