"""Sparse attention as tiles of softmax that skip what no query of the tile sees.

The queries that share a KV head stand as rows of one matrix, group after group, so that a decoding
step fills a tile as far as its group goes. The mask is read through its own strides: broadcast
dimensions take no memory.
"""

from __future__ import annotations

import torch

from lalte_kernels.sparse_attention.triton.masked import Mask, attend

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
WIDEST_HEAD = 256  # columns that shared memory has room for


def refusal(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    visible: torch.Tensor,  # noqa: ARG001 - one signature with the op
    earlier: torch.Tensor | None = None,  # noqa: ARG001
) -> str | None:
    """Why these arguments must go elsewhere, or None."""
    return refused_rows(q, k, v)


def refused_rows(q: torch.Tensor, *others: torch.Tensor) -> str | None:
    """Why kernels that are made of `tiles` cannot take such rows, or None."""
    if q.dtype not in DTYPES:
        return f"it takes float32, bfloat16 and float16, not {q.dtype}"
    for other in others:
        if other.dtype != q.dtype:
            return f"it multiplies numbers of one kind, not {q.dtype} and {other.dtype}"
    if q.shape[-1] > WIDEST_HEAD:
        return f"heads have {q.shape[-1]} columns, more than {WIDEST_HEAD}"
    return None


def sparse_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    visible: torch.Tensor,
    earlier: torch.Tensor | None = None,
) -> torch.Tensor:
    batch, heads, group, n, d = q.shape
    rows = q.reshape(batch, heads, group * n, d)
    mask = Mask.of(visible, earlier, (batch, heads, n, k.shape[2]))
    return attend(rows, k, v, mask).view(q.shape)
