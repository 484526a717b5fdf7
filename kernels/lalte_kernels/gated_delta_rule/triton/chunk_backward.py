"""The backward kernels of the chunked rule; `chunked.py` has the symbols."""

from __future__ import annotations

import triton
import triton.language as tl

from lalte_kernels.gated_delta_rule.triton.chunk_tiles import (
    decay_of,
    first_row,
    load_tile,
    matmul,
    scores_of,
    store_tile,
)


@triton.jit
def backward_outputs(
    q,
    k,
    total,
    d_output,
    inside,
    chunks,
    n,
    heads,
    d_k,
    d_v,
    BLOCK_K: tl.constexpr,
    BLOCK_V: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Store P^T dO (`inside`)."""
    chunk, head = tl.program_id(1), tl.program_id(2)
    row = tl.arange(0, ROWS)
    value = tl.program_id(0) * BLOCK_V + tl.arange(0, BLOCK_V)
    rows, in_rows = row * heads, row < n - chunk * ROWS
    first = first_row(chunk, head, n, heads, ROWS)
    summed = tl.load(total + (head.to(tl.int64) * chunks + chunk) * ROWS + row)
    scores = scores_of(q, k, summed, first, rows, in_rows, d_k, BLOCK_K, ROWS)
    d_o = load_tile(d_output + first * d_v, rows, in_rows, value, d_v)
    store_tile(inside + first * d_v, rows, in_rows, value, d_v, matmul(tl.trans(scores), d_o))


@triton.jit
def backward_states(
    q,
    k,
    beta,
    total,
    inverse,
    d_output,
    inside,
    d_after,
    grad_v,
    right,
    ends,
    grad_state,
    chunks,
    n,
    heads,
    d_k,
    d_v,
    BLOCK_K: tl.constexpr,
    BLOCK_V: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Store dV, dR (`right`), dS_1 of every chunk (`ends`), and the gradient of the first state."""
    head = tl.program_id(1)
    row = tl.arange(0, ROWS)
    key = tl.arange(0, BLOCK_K)
    value = tl.program_id(0) * BLOCK_V + tl.arange(0, BLOCK_V)
    at_state = head.to(tl.int64) * d_k * d_v
    d_s = load_tile(d_after + at_state, key, key < d_k, value, d_v)
    for back in range(chunks):
        chunk = chunks - 1 - back
        rows, in_rows = row * heads, row < n - chunk * ROWS
        first = first_row(chunk, head, n, heads, ROWS)
        at = head.to(tl.int64) * chunks + chunk
        store_tile(ends + at * d_k * d_v, key, key < d_k, value, d_v, d_s)
        weight = tl.load(beta + first + rows, mask=in_rows, other=0.0)[:, None]
        summed = tl.load(total + at * ROWS + row)
        last = tl.load(total + at * ROWS + ROWS - 1)
        solved = tl.load(inverse + at * ROWS * ROWS + row[:, None] * ROWS + row[None, :])
        since = tl.exp(summed)[:, None]

        tile_k = load_tile(k + first * d_k, rows, in_rows, key, d_k)
        d_u = load_tile(inside + first * d_v, rows, in_rows, value, d_v)
        d_u += tl.exp(last - summed)[:, None] * matmul(tile_k, d_s)
        d_r = matmul(tl.trans(solved), d_u)
        store_tile(right + first * d_v, rows, in_rows, value, d_v, d_r)
        d_r *= weight
        store_tile(grad_v + first * d_v, rows, in_rows, value, d_v, d_r)
        d_s = tl.exp(last) * d_s - matmul(tl.trans(tile_k), since * d_r)
        tile_q = load_tile(q + first * d_k, rows, in_rows, key, d_k)
        d_o = load_tile(d_output + first * d_v, rows, in_rows, value, d_v)
        d_s += matmul(tl.trans(tile_q), since * d_o)
    store_tile(grad_state + at_state, key, key < d_k, value, d_v, d_s)


@triton.jit
def backward_inputs(
    q,
    k,
    v,
    beta,
    total,
    corrections,
    starts,
    d_output,
    right,
    ends,
    grad_q,
    grad_k,
    grad_g,
    grad_beta,
    tokens,
    chunks,
    n,
    heads,
    d_k,
    d_v,
    BLOCK_K: tl.constexpr,
    BLOCK_V: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Gradients of q, k, g and beta, for one block of key columns; of g and beta, its part.

    G_i enters as e^{G_i} with q_i and with k_i where it asks the past, and as e^{-G_i} with k_i
    where later tokens ask it. So dG needs no products of its own: it is q . dq + k . (the first
    part of dk) - k . (the second part of dk).
    """
    chunk, part, head = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    row = tl.arange(0, ROWS)
    rows, in_rows = row * heads, row < n - chunk * ROWS
    first = first_row(chunk, head, n, heads, ROWS)
    key = part * BLOCK_K + tl.arange(0, BLOCK_K)
    at_state = (head.to(tl.int64) * chunks + chunk) * d_k * d_v
    at = (head.to(tl.int64) * chunks + chunk) * ROWS

    d_scores = tl.zeros([ROWS, ROWS], dtype=tl.float32)
    d_lower = tl.zeros([ROWS, ROWS], dtype=tl.float32)
    d_q = tl.zeros([ROWS, BLOCK_K], dtype=tl.float32)
    d_asking = tl.zeros([ROWS, BLOCK_K], dtype=tl.float32)
    d_written = tl.zeros([ROWS, BLOCK_K], dtype=tl.float32)
    d_beta = tl.zeros([ROWS], dtype=tl.float32)
    d_end = 0.0
    for column in range(0, d_v, BLOCK_V):
        value = column + tl.arange(0, BLOCK_V)
        u = load_tile(corrections + first * d_v, rows, in_rows, value, d_v)
        d_o = load_tile(d_output + first * d_v, rows, in_rows, value, d_v)
        d_r = load_tile(right + first * d_v, rows, in_rows, value, d_v)
        s = load_tile(starts + at_state, key, key < d_k, value, d_v)
        d_s = load_tile(ends + at_state, key, key < d_k, value, d_v)
        d_scores += matmul(d_o, tl.trans(u))
        d_lower -= matmul(d_r, tl.trans(u))
        d_q += matmul(d_o, tl.trans(s))
        d_asking -= matmul(d_r, tl.trans(s))
        d_written += matmul(u, tl.trans(d_s))
        d_end += tl.sum(s * d_s)
        if part == 0:
            d_beta += tl.sum(load_tile(v + first * d_v, rows, in_rows, value, d_v) * d_r, axis=1)

    tile_q = load_tile(q + first * d_k, rows, in_rows, key, d_k)
    tile_k = load_tile(k + first * d_k, rows, in_rows, key, d_k)
    weight = tl.load(beta + first + rows, mask=in_rows, other=0.0)
    summed = tl.load(total + at + row)
    last = tl.load(total + at + ROWS - 1)
    decay = decay_of(summed, ROWS)
    since = tl.exp(summed)[:, None]
    d_scores *= decay
    d_lower = tl.where(row[:, None] > row[None, :], d_lower * decay, 0.0)

    d_q = since * d_q + matmul(d_scores, tile_k)
    d_asking = since * d_asking + matmul(d_lower, tile_k)
    d_written *= tl.exp(last - summed)[:, None]
    d_end = tl.exp(last) * d_end + tl.sum(tile_k * d_written)
    d_asked = d_written + matmul(tl.trans(d_scores), tile_q)
    d_asked += matmul(tl.trans(d_lower * weight[:, None]), tile_k)
    d_beta += tl.sum(tile_k * d_asking, axis=1)
    d_asking *= weight[:, None]

    d_total = tl.sum(tile_q * d_q + tile_k * (d_asking - d_asked), axis=1)
    d_total = tl.where(row == ROWS - 1, d_total + d_end, d_total)
    store_tile(grad_q + first * d_k, rows, in_rows, key, d_k, d_q)
    store_tile(grad_k + first * d_k, rows, in_rows, key, d_k, d_asking + d_asked)
    at_part = part.to(tl.int64) * tokens + first + rows
    tl.store(grad_g + at_part, tl.cumsum(d_total, axis=0, reverse=True), mask=in_rows)
    tl.store(grad_beta + at_part, d_beta, mask=in_rows)
