"""The gated delta rule (Gated DeltaNet, arXiv 2412.06464), going on from any state."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lalte_kernels.dispatch import Op
from lalte_kernels.gated_delta_rule import cpu, reference

if TYPE_CHECKING:
    import torch

RULE_CHUNK = cpu.CHUNK
"""Tokens that are computed together: a call's bits are those of calls cut at its multiples."""

OP = Op("gated_delta_rule", reference.gated_delta_rule, cpu.gated_delta_rule, gpu=("fla", "triton"))


def gated_delta_rule(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    g: torch.Tensor,
    beta: torch.Tensor,
    state: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """S_t = a_t (I - b_t k_t k_t^T) S_{t-1} + b_t k_t v_t^T and o_t = S_t^T q_t.

    q, k: [batch, n, heads, d_k], k of unit length, q scaled. v: [batch, n, heads, d_v].
    g: [batch, n, heads], log a_t, at most 0. beta: [batch, n, heads], in 0..1.
    state: [batch, heads, d_k, d_v]. All fp32, or all fp64. n >= 1.
    Returns (o: [batch, n, heads, d_v], the state after the last token).
    """
    return OP.run(q.device, q, k, v, g, beta, state)
