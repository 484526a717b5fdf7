"""What the kernels of any softmax attention share: one step of it, forwards and backwards.

A step meets a tile of rows (queries, of all heads that share a KV head) with a tile of keys; `seen`
says which rows see which keys. Rows and keys are numbers of rows of their matrices; which meet is
the kernels' business. Forwards the softmax is taken in passing, with the highest score so far and
the sum below it. Backwards the weights are e^(score - logsum), as in FlashAttention (arXiv
2205.14135); `shares` is what a row's weights gain all together, grad . output.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from lalte_kernels.blocks import block

# Products of fp32 in three TF32 steps: on tensor cores, with errors near those of fp32.
PRECISION = tl.constexpr("tf32x3")

LOWEST = tl.constexpr(-1e38)
"""Below any score, and finite: differences stay numbers."""


class Tiles(NamedTuple):
    """Sides of a tile of scores, rows by keys, and the warps that share it."""

    rows: int
    keys: int
    warps: int

    @classmethod
    def of(cls, rows: int, x: torch.Tensor) -> Tiles:
        """Return what registers have room for, by the machine code of sm_80 and sm_90."""
        width = block(x.shape[-1]) * x.element_size()  # bytes of a row of x
        if width <= 128:
            tiles = cls(64, 64, 4)
        elif width <= 256:
            tiles = cls(32, 32, 4)
        else:
            tiles = cls(16, 32, 8) if width <= 512 else cls(16, 16, 8)
        return tiles._replace(rows=min(tiles.rows, block(rows)))


@triton.jit
def matmul(a, b):
    return tl.dot(a, b, input_precision=PRECISION)


@triton.jit
def load_tile(base, row, there, stride, column, d):
    """Rows of a matrix whose rows are `stride` apart and d wide, zero where they are not there."""
    return tl.load(
        base + row.to(tl.int64)[:, None] * stride + column[None, :],
        mask=there[:, None] & (column < d)[None, :],
        other=0.0,
    )


@triton.jit
def store_tile(base, row, there, column, d, value):
    tl.store(
        base + row.to(tl.int64)[:, None] * d + column[None, :],
        value.to(base.dtype.element_ty),
        mask=there[:, None] & (column < d)[None, :],
    )


@triton.jit
def meet(tile_q, k, v, key, keys, k_row, v_row, column, d, scale, seen, highest, total, out):
    """Take one tile of keys into the softmax of the rows; return (highest, total, out)."""
    scores = matmul(tile_q, tl.trans(load_tile(k, key, key < keys, k_row, column, d))) * scale
    scores = tl.where(seen, scores, float("-inf"))
    higher = tl.maximum(highest, tl.max(scores, axis=1))
    share = tl.exp(scores - higher[:, None])
    fade = tl.exp(highest - higher)
    tile_v = load_tile(v, key, key < keys, v_row, column, d)
    out = out * fade[:, None] + matmul(share.to(tile_v.dtype), tile_v)
    return higher, total * fade + tl.sum(share, axis=1), out


@triton.jit
def finish(mixed, logsum, row, there, column, d, highest, total, out):
    """Store what the softmax came to; a row that saw nothing gets zeros."""
    total = tl.where(total > 0, total, 1.0)
    store_tile(mixed, row, there, column, d, out / total[:, None])
    tl.store(logsum + row, highest + tl.log(total), mask=there)


@triton.jit
def grad_of_rows(
    tile_q, d_out, logs, share_of_out, k, v, key, keys, k_row, v_row, column, d, scale, seen
):
    """What one tile of keys adds to the gradient of the rows."""
    tile_k = load_tile(k, key, key < keys, k_row, column, d)
    scores = matmul(tile_q, tl.trans(tile_k)) * scale - logs[:, None]
    share = tl.exp(tl.where(seen, scores, float("-inf")))
    d_share = matmul(d_out, tl.trans(load_tile(v, key, key < keys, v_row, column, d)))
    d_scores = share * (d_share - share_of_out[:, None]) * scale
    return matmul(d_scores.to(tile_k.dtype), tile_k)


@triton.jit
def grad_of_keys(
    tile_k, tile_v, q, grad, logsum, shares, row, there, column, d, scale, seen, d_k, d_v
):
    """Add what one tile of rows gives to the gradients of the keys and values."""
    tile_q = load_tile(q, row, there, d, column, d)
    d_out = load_tile(grad, row, there, d, column, d)
    logs = tl.load(logsum + row, mask=there, other=0.0)
    share_of_out = tl.load(shares + row, mask=there, other=0.0)
    scores = matmul(tile_q, tl.trans(tile_k)) * scale - logs[:, None]
    share = tl.exp(tl.where(seen, scores, float("-inf")))
    d_v += matmul(tl.trans(share.to(d_out.dtype)), d_out)
    d_share = matmul(d_out, tl.trans(tile_v))
    d_scores = share * (d_share - share_of_out[:, None]) * scale
    d_k += matmul(tl.trans(d_scores.to(tile_q.dtype)), tile_q)
    return d_k, d_v
