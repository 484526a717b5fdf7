"""The forward kernels of the chunked rule; `chunked.py` has the symbols."""

from __future__ import annotations

import triton
import triton.language as tl

from lalte_kernels.gated_delta_rule.triton.chunk_tiles import (
    first_row,
    load_tile,
    matmul,
    scores_of,
    store_tile,
)


@triton.jit
def invert(
    k,
    g,
    beta,
    total,
    inverse,
    chunks,
    n,
    heads,
    d_k,
    BLOCK_K: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Store G and (I + L)^-1 of every chunk."""
    chunk, head = tl.program_id(0), tl.program_id(1)
    row = tl.arange(0, ROWS)
    rows, in_rows = row * heads, row < n - chunk * ROWS
    first = first_row(chunk, head, n, heads, ROWS)
    at = (head.to(tl.int64) * chunks + chunk) * ROWS
    # Rows that are not there have g = 0, so the last row of G is that of the last token.
    summed = tl.cumsum(tl.load(g + first + rows, mask=in_rows, other=0.0), axis=0)
    tl.store(total + at + row, summed)

    weight = tl.load(beta + first + rows, mask=in_rows, other=0.0)
    lower = weight[:, None] * scores_of(k, k, summed, first, rows, in_rows, d_k, BLOCK_K, ROWS)
    lower = tl.where(row[:, None] > row[None, :], lower, 0.0)
    # Forward substitution, one row after the other: stable where powers of L are not.
    solved = tl.where(row[:, None] == row[None, :], 1.0, 0.0)
    for i in range(1, ROWS):
        here = (row == i)[:, None]
        factors = tl.sum(tl.where(here, lower, 0.0), axis=0)
        known = tl.sum(factors[:, None] * solved, axis=0)
        solved = tl.where(here, solved - known[None, :], solved)
    tl.store(inverse + at * ROWS + row[:, None] * ROWS + row[None, :], solved)


@triton.jit
def states(
    k,
    v,
    beta,
    total,
    inverse,
    state,
    corrections,
    starts,
    after,
    chunks,
    n,
    heads,
    d_k,
    d_v,
    BLOCK_K: tl.constexpr,
    BLOCK_V: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Store U (`corrections`), S_0 of every chunk (`starts`) and the last state (`after`)."""
    head = tl.program_id(1)
    row = tl.arange(0, ROWS)
    key = tl.arange(0, BLOCK_K)
    value = tl.program_id(0) * BLOCK_V + tl.arange(0, BLOCK_V)
    at_state = head.to(tl.int64) * d_k * d_v
    s = load_tile(state + at_state, key, key < d_k, value, d_v)
    for chunk in range(chunks):
        rows, in_rows = row * heads, row < n - chunk * ROWS
        first = first_row(chunk, head, n, heads, ROWS)
        at = head.to(tl.int64) * chunks + chunk
        store_tile(starts + at * d_k * d_v, key, key < d_k, value, d_v, s)
        tile_k = load_tile(k + first * d_k, rows, in_rows, key, d_k)
        tile_v = load_tile(v + first * d_v, rows, in_rows, value, d_v)
        weight = tl.load(beta + first + rows, mask=in_rows, other=0.0)
        summed = tl.load(total + at * ROWS + row)
        last = tl.load(total + at * ROWS + ROWS - 1)
        solved = tl.load(inverse + at * ROWS * ROWS + row[:, None] * ROWS + row[None, :])

        past = tl.exp(summed)[:, None] * matmul(tile_k, s)
        u = matmul(solved, weight[:, None] * (tile_v - past))
        store_tile(corrections + first * d_v, rows, in_rows, value, d_v, u)
        faded = u * tl.exp(last - summed)[:, None]
        s = tl.exp(last) * s + matmul(tl.trans(tile_k), faded)
    store_tile(after + at_state, key, key < d_k, value, d_v, s)


@triton.jit
def outputs(
    q,
    k,
    total,
    corrections,
    starts,
    output,
    chunks,
    n,
    heads,
    d_k,
    d_v,
    BLOCK_K: tl.constexpr,
    BLOCK_V: tl.constexpr,
    ROWS: tl.constexpr,
):
    chunk, head = tl.program_id(1), tl.program_id(2)
    row = tl.arange(0, ROWS)
    value = tl.program_id(0) * BLOCK_V + tl.arange(0, BLOCK_V)
    rows, in_rows = row * heads, row < n - chunk * ROWS
    first = first_row(chunk, head, n, heads, ROWS)
    at = head.to(tl.int64) * chunks + chunk
    summed = tl.load(total + at * ROWS + row)
    o = tl.zeros([ROWS, BLOCK_V], dtype=tl.float32)
    for column in range(0, d_k, BLOCK_K):
        key = column + tl.arange(0, BLOCK_K)
        tile_q = load_tile(q + first * d_k, rows, in_rows, key, d_k)
        o += matmul(tile_q, load_tile(starts + at * d_k * d_v, key, key < d_k, value, d_v))
    o *= tl.exp(summed)[:, None]
    scores = scores_of(q, k, summed, first, rows, in_rows, d_k, BLOCK_K, ROWS)
    o += matmul(scores, load_tile(corrections + first * d_v, rows, in_rows, value, d_v))
    store_tile(output + first * d_v, rows, in_rows, value, d_v, o)
