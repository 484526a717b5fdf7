"""torch's fused attention; the queries that share a KV head stand as rows of one matrix."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.nn import functional

if TYPE_CHECKING:
    import torch


def sparse_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, visible: torch.Tensor
) -> torch.Tensor:
    batch, heads, group, n, d = q.shape
    mask = visible.expand(batch, heads, n, k.shape[2])[:, :, None].expand(-1, -1, group, -1, -1)
    out = functional.scaled_dot_product_attention(
        q.reshape(batch, heads, group * n, d),
        k,
        v,
        attn_mask=mask.reshape(batch, heads, group * n, k.shape[2]),
    )
    return out.reshape(q.shape)
