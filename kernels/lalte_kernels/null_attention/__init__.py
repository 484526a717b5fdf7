"""Softmax attention that may also look at nothing: a window's share of what it stands in for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lalte_kernels.dispatch import Op
from lalte_kernels.null_attention import cpu, reference

if TYPE_CHECKING:
    import torch

OP = Op(
    "null_attention",
    reference=reference.null_attention,
    cpu=cpu.null_attention,
    gpu=("triton",),
    portable=True,
)


def null_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    visible: torch.Tensor,
    null_logit: torch.Tensor,
) -> torch.Tensor:
    """Grouped-query attention with one key more, whose value is zero and whose logit is given.

    With z = sum of e^score over the visible keys, the result is z / (z + e^null_logit) times what
    attention to the visible keys alone gives. Scale head_dim^-0.5.

    q: [batch, kv_heads, group, n, d]. k, v: [batch, kv_heads, keys, d], q and k after RoPE.
    visible: bool, broadcastable to [batch, kv_heads, n, keys]. null_logit: [batch, kv_heads,
    group, n], fp32 or fp64. What hidden keys hold does not matter as long as it is finite.
    Returns q's shape and dtype.
    """
    return OP.run(q.device, q, k, v, visible, null_logit)
