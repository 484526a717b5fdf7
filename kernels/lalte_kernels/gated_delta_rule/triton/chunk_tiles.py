"""What the kernels of a chunk share: its rows in memory, its decays, its products."""

from __future__ import annotations

import triton
import triton.language as tl

# Products in three TF32 steps: on tensor cores, with errors near those of fp32.
PRECISION = tl.constexpr("tf32x3")


@triton.jit
def matmul(a, b):
    return tl.dot(a, b, input_precision=PRECISION)


@triton.jit
def first_row(chunk, head, n, heads, ROWS: tl.constexpr):
    """Place of a chunk's first row in [batch, n, heads]; the next ones follow `heads` apart."""
    sequence = (head // heads).to(tl.int64)
    return (sequence * n + chunk * ROWS) * heads + head % heads


@triton.jit
def load_tile(base, rows, in_rows, columns, width):
    """Rows of a matrix that is `width` wide, zero outside of it."""
    return tl.load(
        base + rows[:, None] * width + columns[None, :],
        mask=in_rows[:, None] & (columns < width)[None, :],
        other=0.0,
    )


@triton.jit
def store_tile(base, rows, in_rows, columns, width, value):
    mask = in_rows[:, None] & (columns < width)[None, :]
    tl.store(base + rows[:, None] * width + columns[None, :], value, mask=mask)


@triton.jit
def decay_of(total, ROWS: tl.constexpr):
    """D, with zeros above the diagonal. Masked first: there the exponential could overflow."""
    row = tl.arange(0, ROWS)
    gap = total[:, None] - total[None, :]
    return tl.exp(tl.where(row[:, None] >= row[None, :], gap, float("-inf")))


@triton.jit
def scores_of(a, b, total, first, rows, in_rows, d_k, BLOCK_K: tl.constexpr, ROWS: tl.constexpr):
    """D o (A B^T) of a chunk, `first` being its first row."""
    scores = tl.zeros([ROWS, ROWS], dtype=tl.float32)
    for column in range(0, d_k, BLOCK_K):
        key = column + tl.arange(0, BLOCK_K)
        tile_a = load_tile(a + first * d_k, rows, in_rows, key, d_k)
        tile_b = load_tile(b + first * d_k, rows, in_rows, key, d_k)
        scores += matmul(tile_a, tl.trans(tile_b))
    return scores * decay_of(total, ROWS)
