"""NSA on GPUs: a kernel for each branch, and the choice between two of them.

The compressed branch and the window are one kernel: in both, a query's keys are a band that ends
where it stands. The selected branch reads the rows of the chosen blocks where they lie, a program
for each query. Nothing grows with the stream but what is done with the pooled blocks. A decoding
step is a call with one query.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton

from lalte_kernels.nsa.triton.band import band_attention
from lalte_kernels.nsa.triton.choice import MOST_BLOCKS, choose
from lalte_kernels.nsa.triton.selected import selected_attention
from lalte_kernels.sparse_attention.triton import refused_rows

if TYPE_CHECKING:
    from lalte_kernels.nsa import Sparsity


def refusal(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    pooled_k: torch.Tensor,
    pooled_v: torch.Tensor,
    gates: torch.Tensor,  # noqa: ARG001 - one signature with the op
    start: torch.Tensor,  # noqa: ARG001
    sparsity: Sparsity,
) -> str | None:
    """Why these arguments must go elsewhere, or None."""
    blocks = triton.cdiv(k.shape[2], sparsity.block_size)
    if blocks > MOST_BLOCKS:
        return f"keys have room for {blocks} blocks, more than {MOST_BLOCKS}"
    return refused_rows(q, k, v, pooled_k, pooled_v)


def nsa(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    pooled_k: torch.Tensor,
    pooled_v: torch.Tensor,
    gates: torch.Tensor,
    start: torch.Tensor,
    sparsity: Sparsity,
) -> torch.Tensor:
    batch, heads, group, n, d = q.shape
    # Query after query, so that a tile's rows stand close together in the stream.
    rows = q.transpose(2, 3).reshape(batch, heads, n * group, d)
    k, v, pooled_k, pooled_v = (
        x if x.stride(-1) == 1 else x.contiguous() for x in (k, v, pooled_k, pooled_v)
    )
    size = sparsity.block_size
    compressed, logsum = band_attention(
        rows, pooled_k, pooled_v, start, group, size, pooled_k.shape[2]
    )
    chosen = choose(rows, logsum, pooled_k, start, group, k.shape[2], sparsity)
    selected = selected_attention(rows, k, v, chosen, start, group, size)
    window, _ = band_attention(rows, k, v, start, group, 1, sparsity.window)
    weights = gates.float().transpose(2, 3).reshape(batch, heads, n * group, 3, 1).unbind(3)
    out = compressed * weights[0] + selected * weights[1] + window * weights[2]
    return out.to(q.dtype).view(batch, heads, n, group, d).transpose(2, 3)
