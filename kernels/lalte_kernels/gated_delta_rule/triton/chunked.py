"""The gated delta rule in chunks, forwards and backwards.

The chunked form is that of `cpu.py`, cut into kernels by what can run side by side. With G the
running sum of g inside a chunk, D_ij = e^{G_i - G_j} for j <= i, a chunk's rows as matrices, and o
the product of elements:

    (I + L) U = R,   L = b D o (K K^T) below the diagonal,   R = b (V - e^G K S_0)
    O = e^G Q S_0 + P U,   P = D o (Q K^T)
    S_1 = e^{G_last} S_0 + (e^{G_last - G} K)^T U

`_invert` computes (I + L)^-1 of all chunks at once; `_forward` walks through the chunks, for one
block of value columns. Backwards, `_backward_state` walks from the last chunk to the first:

    dU = P^T dO + (e^{G_last - G} K) dS_1,   dR = (I + L)^-T dU,   dV = b dR
    dS_0 = e^{G_last} dS_1 + (e^G Q)^T dO - (b e^G K)^T dR

and `_backward_inputs` has what is left, of all chunks at once, from dP = dO U^T and dL = -dR U^T.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from lalte_kernels.blocks import block

COLUMNS = 32  # of values, per program or step

# Products in three TF32 steps: on tensor cores, with errors near those of fp32.
PRECISION = tl.constexpr("tf32x3")


def chunked(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    g: torch.Tensor,
    beta: torch.Tensor,
    state: torch.Tensor,
    *,
    learns: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """gated_delta_rule with gradients if it `learns`. All contiguous fp32."""
    result: tuple[torch.Tensor, torch.Tensor] = _Chunked.apply(q, k, v, g, beta, state, learns)
    return result


def chunk_rows(d_k: int) -> int:
    """Tokens per chunk: as many as leave room in shared memory for the tiles of wide heads."""
    return 64 if d_k <= 64 else 32


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        g: torch.Tensor,
        beta: torch.Tensor,
        state: torch.Tensor,
        learns: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        batch, n, heads, d_k = q.shape
        d_v = v.shape[-1]
        rows = chunk_rows(d_k)
        chunks = triton.cdiv(n, rows)

        total = g.new_empty(batch * heads, chunks, rows)
        inverse = g.new_empty(batch * heads, chunks, rows, rows)
        _invert[(chunks, batch * heads)](
            *(k, g, beta, total, inverse),
            *(chunks, n, heads, d_k),
            BLOCK_K=block(d_k),
            ROWS=rows,
            num_warps=4,
            num_stages=1,
        )
        output, after = torch.empty_like(v), torch.empty_like(state)
        # What only the way back needs: U, and S_0 of every chunk.
        corrections = torch.empty_like(v) if learns else v
        starts = state.new_empty(batch * heads, chunks, d_k, d_v) if learns else state
        _forward[(triton.cdiv(d_v, COLUMNS), batch * heads)](
            *(q, k, v, beta, total, inverse, state, output, after, corrections, starts),
            *(chunks, n, heads, d_k, d_v),
            SAVE=learns,
            BLOCK_K=block(d_k),
            BLOCK_V=COLUMNS,
            ROWS=rows,
            num_warps=4,
            num_stages=1,
        )
        if learns:
            ctx.save_for_backward(q, k, v, beta, total, inverse, corrections, starts)
        return output, after

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        q, k, v, beta, total, inverse, corrections, starts = ctx.saved_tensors
        d_output, d_after = (x.contiguous() for x in gradients)
        batch, n, heads, d_k = q.shape
        d_v = v.shape[-1]
        rows = chunk_rows(d_k)
        chunks = triton.cdiv(n, rows)

        grad_v, right = torch.empty_like(v), torch.empty_like(v)
        ends, grad_state = torch.empty_like(starts), torch.empty_like(d_after)
        _backward_state[(triton.cdiv(d_v, COLUMNS), batch * heads)](
            *(q, k, beta, total, inverse, d_output, d_after, grad_v, right, ends, grad_state),
            *(chunks, n, heads, d_k, d_v),
            BLOCK_K=block(d_k),
            BLOCK_V=COLUMNS,
            ROWS=rows,
            num_warps=4,
            num_stages=1,
        )
        key_columns = min(block(d_k), 64)
        key_blocks = triton.cdiv(d_k, key_columns)
        grad_q, grad_k = torch.empty_like(q), torch.empty_like(k)
        # Each block of key columns gives its part of the sums over all of them.
        grad_g, grad_beta = beta.new_empty(2, key_blocks, *beta.shape)
        _backward_inputs[(chunks, key_blocks, batch * heads)](
            *(q, k, v, beta, total, corrections, starts, d_output, right, ends),
            *(grad_q, grad_k, grad_g, grad_beta),
            *(chunks, beta.numel(), n, heads, d_k, d_v),
            BLOCK_K=key_columns,
            BLOCK_V=COLUMNS,
            ROWS=rows,
            num_warps=4,
            num_stages=1,
        )
        return grad_q, grad_k, grad_v, grad_g.sum(dim=0), grad_beta.sum(dim=0), grad_state, None


@triton.jit
def _matmul(a, b):
    return tl.dot(a, b, input_precision=PRECISION)


@triton.jit
def _rows_of(chunk, head, n, heads, ROWS: tl.constexpr):
    """Places of a chunk's rows in [batch, n, heads], and which of them there are."""
    row = chunk * ROWS + tl.arange(0, ROWS)
    first = (head // heads).to(tl.int64) * n * heads + head % heads
    return first + row.to(tl.int64) * heads, row < n


@triton.jit
def _tile(base, rows, in_rows, columns, width):
    """Rows of a matrix that is `width` wide, zero outside of it."""
    return tl.load(
        base + rows[:, None] * width + columns[None, :],
        mask=in_rows[:, None] & (columns < width)[None, :],
        other=0.0,
    )


@triton.jit
def _put(base, rows, in_rows, columns, width, value):
    mask = in_rows[:, None] & (columns < width)[None, :]
    tl.store(base + rows[:, None] * width + columns[None, :], value, mask=mask)


@triton.jit
def _decay(total, ROWS: tl.constexpr):
    """D, with zeros above the diagonal. Masked first: there the exponential could overflow."""
    row = tl.arange(0, ROWS)
    gap = total[:, None] - total[None, :]
    return tl.exp(tl.where(row[:, None] >= row[None, :], gap, float("-inf")))


@triton.jit
def _invert(
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
    rows, in_rows = _rows_of(chunk, head, n, heads, ROWS)
    row = tl.arange(0, ROWS)
    at = (head.to(tl.int64) * chunks + chunk) * ROWS
    # Rows that are not there have g = 0, so the last row of G is that of the last token.
    summed = tl.cumsum(tl.load(g + rows, mask=in_rows, other=0.0), axis=0)
    tl.store(total + at + row, summed)

    tile_k = _tile(k, rows, in_rows, tl.arange(0, BLOCK_K), d_k)
    weight = tl.load(beta + rows, mask=in_rows, other=0.0)
    lower = _matmul(tile_k, tl.trans(tile_k)) * _decay(summed, ROWS) * weight[:, None]
    lower = tl.where(row[:, None] > row[None, :], lower, 0.0)
    # Forward substitution, one row after the other: stable where powers of L are not.
    solved = tl.where(row[:, None] == row[None, :], 1.0, 0.0)
    for i in range(1, ROWS):
        here = (row == i)[:, None]
        factors = tl.sum(tl.where(here, lower, 0.0), axis=0)
        known = tl.sum(factors[:, None] * solved, axis=0)
        solved = tl.where(here, solved - known[None, :], solved)
    tl.store(inverse + (at + row[:, None]) * ROWS + row[None, :], solved)


@triton.jit
def _forward(
    q,
    k,
    v,
    beta,
    total,
    inverse,
    state,
    output,
    after,
    corrections,
    starts,
    chunks,
    n,
    heads,
    d_k,
    d_v,
    SAVE: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_V: tl.constexpr,
    ROWS: tl.constexpr,
):
    head = tl.program_id(1)
    row = tl.arange(0, ROWS)
    key = tl.arange(0, BLOCK_K)
    value = tl.program_id(0) * BLOCK_V + tl.arange(0, BLOCK_V)
    at_state = head.to(tl.int64) * d_k + key
    s = _tile(state, at_state, key < d_k, value, d_v)
    for chunk in range(chunks):
        rows, in_rows = _rows_of(chunk, head, n, heads, ROWS)
        at = (head.to(tl.int64) * chunks + chunk) * ROWS
        if SAVE:
            at_start = (head.to(tl.int64) * chunks + chunk) * d_k + key
            _put(starts, at_start, key < d_k, value, d_v, s)
        tile_q = _tile(q, rows, in_rows, key, d_k)
        tile_k = _tile(k, rows, in_rows, key, d_k)
        tile_v = _tile(v, rows, in_rows, value, d_v)
        weight = tl.load(beta + rows, mask=in_rows, other=0.0)
        summed = tl.load(total + at + row)
        at_end = tl.load(total + at + ROWS - 1)
        solved = tl.load(inverse + (at + row[:, None]) * ROWS + row[None, :])
        since = tl.exp(summed)[:, None]

        u = _matmul(solved, weight[:, None] * (tile_v - since * _matmul(tile_k, s)))
        scores = _matmul(tile_q, tl.trans(tile_k)) * _decay(summed, ROWS)
        o = since * _matmul(tile_q, s) + _matmul(scores, u)
        s = tl.exp(at_end) * s
        s += _matmul(tl.trans(tile_k * tl.exp(at_end - summed)[:, None]), u)
        _put(output, rows, in_rows, value, d_v, o)
        if SAVE:
            _put(corrections, rows, in_rows, value, d_v, u)
    _put(after, at_state, key < d_k, value, d_v, s)


@triton.jit
def _backward_state(
    q,
    k,
    beta,
    total,
    inverse,
    d_output,
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
    at_state = head.to(tl.int64) * d_k + key
    d_s = _tile(d_after, at_state, key < d_k, value, d_v)
    for back in range(chunks):
        chunk = chunks - 1 - back
        rows, in_rows = _rows_of(chunk, head, n, heads, ROWS)
        at = (head.to(tl.int64) * chunks + chunk) * ROWS
        _put(ends, (head.to(tl.int64) * chunks + chunk) * d_k + key, key < d_k, value, d_v, d_s)
        tile_q = _tile(q, rows, in_rows, key, d_k)
        tile_k = _tile(k, rows, in_rows, key, d_k)
        d_o = _tile(d_output, rows, in_rows, value, d_v)
        weight = tl.load(beta + rows, mask=in_rows, other=0.0)[:, None]
        summed = tl.load(total + at + row)
        at_end = tl.load(total + at + ROWS - 1)
        solved = tl.load(inverse + (at + row[:, None]) * ROWS + row[None, :])
        since = tl.exp(summed)[:, None]

        scores = _matmul(tile_q, tl.trans(tile_k)) * _decay(summed, ROWS)
        d_u = _matmul(tl.trans(scores), d_o)
        d_u += _matmul(tile_k * tl.exp(at_end - summed)[:, None], d_s)
        d_r = _matmul(tl.trans(solved), d_u)
        d_s = tl.exp(at_end) * d_s + _matmul(tl.trans(tile_q * since), d_o)
        d_s -= _matmul(tl.trans(tile_k * (since * weight)), d_r)
        _put(right, rows, in_rows, value, d_v, d_r)
        _put(grad_v, rows, in_rows, value, d_v, weight * d_r)
    _put(grad_state, at_state, key < d_k, value, d_v, d_s)


@triton.jit
def _backward_inputs(
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
    chunks,
    tokens,
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
    rows, in_rows = _rows_of(chunk, head, n, heads, ROWS)
    row = tl.arange(0, ROWS)
    key = part * BLOCK_K + tl.arange(0, BLOCK_K)
    at_state = (head.to(tl.int64) * chunks + chunk) * d_k + key
    at = (head.to(tl.int64) * chunks + chunk) * ROWS

    d_scores = tl.zeros([ROWS, ROWS], dtype=tl.float32)
    d_lower = tl.zeros([ROWS, ROWS], dtype=tl.float32)
    d_q = tl.zeros([ROWS, BLOCK_K], dtype=tl.float32)
    d_asking = tl.zeros([ROWS, BLOCK_K], dtype=tl.float32)
    d_written = tl.zeros([ROWS, BLOCK_K], dtype=tl.float32)
    d_beta = tl.zeros([ROWS], dtype=tl.float32)
    d_end = 0.0
    for first in range(0, d_v, BLOCK_V):
        value = first + tl.arange(0, BLOCK_V)
        u = _tile(corrections, rows, in_rows, value, d_v)
        d_o = _tile(d_output, rows, in_rows, value, d_v)
        d_r = _tile(right, rows, in_rows, value, d_v)
        s = _tile(starts, at_state, key < d_k, value, d_v)
        d_s = _tile(ends, at_state, key < d_k, value, d_v)
        d_scores += _matmul(d_o, tl.trans(u))
        d_lower -= _matmul(d_r, tl.trans(u))
        d_q += _matmul(d_o, tl.trans(s))
        d_asking -= _matmul(d_r, tl.trans(s))
        d_written += _matmul(u, tl.trans(d_s))
        d_end += tl.sum(s * d_s)
        if part == 0:
            d_beta += tl.sum(_tile(v, rows, in_rows, value, d_v) * d_r, axis=1)

    tile_q = _tile(q, rows, in_rows, key, d_k)
    tile_k = _tile(k, rows, in_rows, key, d_k)
    weight = tl.load(beta + rows, mask=in_rows, other=0.0)
    summed = tl.load(total + at + row)
    at_end = tl.load(total + at + ROWS - 1)
    decay = _decay(summed, ROWS)
    since = tl.exp(summed)[:, None]
    d_scores *= decay
    d_lower = tl.where(row[:, None] > row[None, :], d_lower * decay, 0.0)

    d_q = since * d_q + _matmul(d_scores, tile_k)
    d_asking = since * d_asking + _matmul(d_lower, tile_k)
    d_written *= tl.exp(at_end - summed)[:, None]
    d_end = tl.exp(at_end) * d_end + tl.sum(tile_k * d_written)
    d_asked = d_written + _matmul(tl.trans(d_scores), tile_q)
    d_asked += _matmul(tl.trans(d_lower * weight[:, None]), tile_k)
    d_beta += tl.sum(tile_k * d_asking, axis=1)
    d_asking *= weight[:, None]

    d_total = tl.sum(tile_q * d_q + tile_k * (d_asking - d_asked), axis=1)
    d_total = tl.where(row == ROWS - 1, d_total + d_end, d_total)
    _put(grad_q, rows, in_rows, key, d_k, d_q)
    _put(grad_k, rows, in_rows, key, d_k, d_asking + d_asked)
    at_part = part.to(tl.int64) * tokens + rows
    tl.store(grad_g + at_part, tl.cumsum(d_total, axis=0, reverse=True), mask=in_rows)
    tl.store(grad_beta + at_part, d_beta, mask=in_rows)
