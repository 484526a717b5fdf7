"""The gated delta rule on GPUs: in chunks for many tokens and for training, else one by one."""

from __future__ import annotations

import torch

from lalte_kernels.gated_delta_rule.triton.chunked import chunked
from lalte_kernels.gated_delta_rule.triton.recurrent import recurrent

RECURRENT_ROWS = 16  # up to here a chunk would be mostly padding
WIDEST_KEY = 256  # columns of a head's keys that shared memory has room for


def refusal(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    g: torch.Tensor,
    beta: torch.Tensor,
    state: torch.Tensor,
) -> str | None:
    """Why these arguments must go elsewhere, or None."""
    if any(x.dtype != torch.float32 for x in (q, k, v, g, beta, state)):
        return f"it computes in float32, not {q.dtype}"
    if q.shape[-1] > WIDEST_KEY:
        return f"keys have {q.shape[-1]} columns, more than {WIDEST_KEY}"
    return None


def gated_delta_rule(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    g: torch.Tensor,
    beta: torch.Tensor,
    state: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    inputs = (
        q.contiguous(),
        k.contiguous(),
        v.contiguous(),
        g.contiguous(),
        beta.contiguous(),
        state.contiguous(),
    )
    learns = torch.is_grad_enabled() and any(x.requires_grad for x in inputs)
    if q.shape[1] <= RECURRENT_ROWS and not learns:
        return recurrent(*inputs)
    return chunked(*inputs)
