"""flash-linear-attention's kernels for the gated delta rule; their products are TF32."""

from __future__ import annotations

import torch
from fla.ops.gated_delta_rule import chunk_gated_delta_rule, fused_recurrent_gated_delta_rule

RECURRENT_ROWS = 16  # up to here a chunk would be mostly padding
WIDEST_KEY = 256  # columns of a head's keys that the kernels take


def refusal(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    g: torch.Tensor,
    beta: torch.Tensor,
    state: torch.Tensor,
) -> str | None:
    """Why these arguments must go elsewhere, or None."""
    if any(x.dtype == torch.float64 for x in (q, k, v, g, beta, state)):
        return "it does not compute in float64"
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
    inputs = (q, k, v, g, beta, state)
    learns = torch.is_grad_enabled() and any(x.requires_grad for x in inputs)
    one_by_one = q.shape[1] <= RECURRENT_ROWS and not learns
    run = fused_recurrent_gated_delta_rule if one_by_one else chunk_gated_delta_rule
    output, after = run(
        q=q,
        k=k,
        v=v,
        g=g,
        beta=beta,
        scale=1.0,
        initial_state=state,
        output_final_state=True,
    )
    return output, after
