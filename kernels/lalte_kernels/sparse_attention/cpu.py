"""bf16 as two matrix products around a softmax, other dtypes as torch's fused attention.

The queries that share a KV head stand as rows of one matrix. On CPUs torch's fused attention runs
bf16 at less than half the speed of the two products. Scores stay fp32 in both.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from lalte_kernels.masks import bias_of
from lalte_kernels.products import product_of_bf16

LEAST_ROWS = 8  # fewer rows are multiplied in another order, and would differ from a block's


def sparse_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    visible: torch.Tensor,
    earlier: torch.Tensor | None = None,
) -> torch.Tensor:
    if q.dtype == torch.bfloat16:
        return _products(q, k, v, visible, earlier)
    return _fused(q, k, v, visible, earlier)


def _products(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    visible: torch.Tensor,
    earlier: torch.Tensor | None,
) -> torch.Tensor:
    batch, heads, group, n, d = q.shape
    keys = k.shape[2]
    rows = group * n
    queries = (q.float() * d**-0.5).reshape(batch * heads, rows, d)
    if rows < LEAST_ROWS:
        queries = functional.pad(queries, (0, 0, 0, LEAST_ROWS - rows))
    scores = product_of_bf16(queries, k.float().reshape(batch * heads, keys, d).mT)
    scores = scores[:, :rows].view(batch, heads, group, n, keys)
    before = keys - visible.shape[-1]
    scores[..., before:] += bias_of(visible)[..., None, :, :]
    if earlier is not None:
        scores[..., :before] += bias_of(earlier)[..., None, None, :]
    weights = scores.softmax(dim=-1).to(v.dtype).view(batch * heads, rows, keys)
    if rows < LEAST_ROWS:
        weights = functional.pad(weights, (0, 0, 0, LEAST_ROWS - rows))
    mixed = torch.bmm(weights, v.reshape(batch * heads, keys, d))
    return mixed[:, :rows].reshape(q.shape)


def _fused(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    visible: torch.Tensor,
    earlier: torch.Tensor | None,
) -> torch.Tensor:
    batch, heads, group, n, d = q.shape
    keys = k.shape[2]
    before = keys - visible.shape[-1]
    bias = torch.zeros(batch, heads, n, keys, dtype=v.dtype, device=v.device)
    bias[..., before:] = bias_of(visible)
    if earlier is not None:
        bias[..., :before] = bias_of(earlier)[..., None, :]
    out = functional.scaled_dot_product_attention(
        q.reshape(batch, heads, group * n, d),
        k,
        v,
        attn_mask=bias[:, :, None].expand(-1, -1, group, -1, -1).reshape(batch, heads, -1, keys),
    )
    return out.reshape(q.shape)
