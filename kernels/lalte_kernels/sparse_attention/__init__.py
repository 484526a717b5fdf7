"""Softmax attention over the keys that a mask lets each query see."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lalte_kernels.dispatch import Op
from lalte_kernels.sparse_attention import cpu, reference

if TYPE_CHECKING:
    import torch

OP = Op("sparse_attention", reference.sparse_attention, cpu.sparse_attention, gpu=("triton",))


def sparse_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    visible: torch.Tensor,
    earlier: torch.Tensor | None = None,
) -> torch.Tensor:
    """Grouped-query attention with a visible set per query and KV head, scale head_dim^-0.5.

    q: [batch, kv_heads, group, n, d]. k, v: [batch, kv_heads, keys, d], q and k after RoPE.
    visible: bool, broadcastable to [batch, kv_heads, n, tail], the last `tail` keys as each query
    sees them. earlier: bool, broadcastable to [batch, kv_heads, keys - tail], the keys before those
    as all queries see them; None where they see all. Every query sees a key at least.
    What hidden keys hold does not matter as long as it is finite. Returns q's shape and dtype.
    """
    return OP.run(q.device, q, k, v, visible, earlier)
