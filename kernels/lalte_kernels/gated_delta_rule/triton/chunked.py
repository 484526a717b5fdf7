"""The gated delta rule in chunks, forwards and backwards.

The chunked form is that of `cpu.py`, cut into kernels by what can run side by side. With G the
running sum of g inside a chunk, D_ij = e^{G_i - G_j} for j <= i, a chunk's rows as matrices, and o
the product of elements:

    (I + L) U = R,   L = b D o (K K^T) below the diagonal,   R = b (V - e^G K S_0)
    O = e^G Q S_0 + P U,   P = D o (Q K^T)
    S_1 = e^{G_last} S_0 + (e^{G_last - G} K)^T U

`_invert` computes (I + L)^-1 of all chunks at once; `_states` walks through the chunks for U and
the states, for one block of value columns; `_outputs` has O of all chunks at once. Backwards,
`_backward_outputs` has P^T dO of all chunks at once, and `_backward_states` walks from the last
chunk to the first:

    dU = P^T dO + (e^{G_last - G} K) dS_1,   dR = (I + L)^-T dU,   dV = b dR
    dS_0 = e^{G_last} dS_1 + (e^G Q)^T dO - (b e^G K)^T dR

and `_backward_inputs` has what is left, of all chunks at once, from dP = dO U^T and dL = -dR U^T.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl

from lalte_kernels.blocks import block

COLUMNS = 16  # of values, per program or step

# Products in three TF32 steps: on tensor cores, with errors near those of fp32.
PRECISION = tl.constexpr("tf32x3")


def chunked(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    g: torch.Tensor,
    beta: torch.Tensor,
    state: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """gated_delta_rule with gradients. All contiguous fp32."""
    result: tuple[torch.Tensor, torch.Tensor] = _Chunked.apply(q, k, v, g, beta, state)
    return result


class _Tiles(NamedTuple):
    """rows: tokens of a chunk. keys: columns of keys per step, where not all are needed at once.

    warps: of the kernels that hold the state's rows for all keys.
    """

    rows: int
    keys: int
    warps: int

    @classmethod
    def of(cls, d_k: int) -> _Tiles:
        """Return what registers have room for, by the machine code of sm_80 and sm_90."""
        if d_k <= 64:
            return cls(rows=32, keys=16, warps=4)
        return cls(rows=16, keys=32, warps=4 if d_k <= 128 else 8)


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
    ) -> tuple[torch.Tensor, torch.Tensor]:
        batch, n, heads, d_k = q.shape
        d_v = v.shape[-1]
        tiles = _Tiles.of(d_k)
        rows, chunks = tiles.rows, triton.cdiv(n, tiles.rows)
        sizes = (chunks, n, heads, d_k, d_v)
        column_blocks = triton.cdiv(d_v, COLUMNS)

        total = g.new_empty(batch * heads, chunks, rows)
        inverse = g.new_empty(batch * heads, chunks, rows, rows)
        _invert[(chunks, batch * heads)](
            *(k, g, beta, total, inverse, chunks, n, heads, d_k),
            BLOCK_K=tiles.keys,
            ROWS=rows,
            num_warps=4,
        )
        corrections, after = torch.empty_like(v), torch.empty_like(state)
        starts = state.new_empty(batch * heads, chunks, d_k, d_v)
        _states[(column_blocks, batch * heads)](
            *(k, v, beta, total, inverse, state, corrections, starts, after, *sizes),
            BLOCK_K=block(d_k),
            BLOCK_V=COLUMNS,
            ROWS=rows,
            num_warps=tiles.warps,
            num_stages=1,
        )
        output = torch.empty_like(v)
        _outputs[(column_blocks, chunks, batch * heads)](
            *(q, k, total, corrections, starts, output, *sizes),
            BLOCK_K=tiles.keys,
            BLOCK_V=COLUMNS,
            ROWS=rows,
            num_warps=4,
            num_stages=1,
        )
        ctx.save_for_backward(q, k, v, beta, total, inverse, corrections, starts)
        return output, after

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, ...]:
        q, k, v, beta, total, inverse, corrections, starts = ctx.saved_tensors
        d_output, d_after = (x.contiguous() for x in gradients)
        batch, n, heads, d_k = q.shape
        d_v = v.shape[-1]
        tiles = _Tiles.of(d_k)
        rows, chunks = tiles.rows, triton.cdiv(n, tiles.rows)
        sizes = (chunks, n, heads, d_k, d_v)
        column_blocks = triton.cdiv(d_v, COLUMNS)

        inside = torch.empty_like(v)
        _backward_outputs[(column_blocks, chunks, batch * heads)](
            *(q, k, total, d_output, inside, *sizes),
            BLOCK_K=tiles.keys,
            BLOCK_V=COLUMNS,
            ROWS=rows,
            num_warps=4,
            num_stages=1,
        )
        grad_v, right = torch.empty_like(v), torch.empty_like(v)
        ends, grad_state = torch.empty_like(starts), torch.empty_like(d_after)
        _backward_states[(column_blocks, batch * heads)](
            *(q, k, beta, total, inverse, d_output, inside, d_after),
            *(grad_v, right, ends, grad_state, *sizes),
            BLOCK_K=block(d_k),
            BLOCK_V=COLUMNS,
            ROWS=rows,
            num_warps=tiles.warps,
            num_stages=1,
        )
        key_blocks = triton.cdiv(d_k, tiles.keys)
        grad_q, grad_k = torch.empty_like(q), torch.empty_like(k)
        # Each block of key columns gives its part of the sums over all of them.
        grad_g, grad_beta = beta.new_empty(2, key_blocks, *beta.shape)
        _backward_inputs[(chunks, key_blocks, batch * heads)](
            *(q, k, v, beta, total, corrections, starts, d_output, right, ends),
            *(grad_q, grad_k, grad_g, grad_beta, beta.numel(), *sizes),
            BLOCK_K=tiles.keys,
            BLOCK_V=COLUMNS,
            ROWS=rows,
            num_warps=4,
            num_stages=1,
        )
        return grad_q, grad_k, grad_v, grad_g.sum(dim=0), grad_beta.sum(dim=0), grad_state


@triton.jit
def _matmul(a, b):
    return tl.dot(a, b, input_precision=PRECISION)


@triton.jit
def _first_row(chunk, head, n, heads, ROWS: tl.constexpr):
    """Place of a chunk's first row in [batch, n, heads]; the next ones follow `heads` apart."""
    sequence = (head // heads).to(tl.int64)
    return (sequence * n + chunk * ROWS) * heads + head % heads


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
def _scores(a, b, total, first, rows, in_rows, d_k, BLOCK_K: tl.constexpr, ROWS: tl.constexpr):
    """D o (A B^T) of a chunk, `first` being its first row."""
    scores = tl.zeros([ROWS, ROWS], dtype=tl.float32)
    for column in range(0, d_k, BLOCK_K):
        key = column + tl.arange(0, BLOCK_K)
        tile_a = _tile(a + first * d_k, rows, in_rows, key, d_k)
        tile_b = _tile(b + first * d_k, rows, in_rows, key, d_k)
        scores += _matmul(tile_a, tl.trans(tile_b))
    return scores * _decay(total, ROWS)


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
    row = tl.arange(0, ROWS)
    rows, in_rows = row * heads, row < n - chunk * ROWS
    first = _first_row(chunk, head, n, heads, ROWS)
    at = (head.to(tl.int64) * chunks + chunk) * ROWS
    # Rows that are not there have g = 0, so the last row of G is that of the last token.
    summed = tl.cumsum(tl.load(g + first + rows, mask=in_rows, other=0.0), axis=0)
    tl.store(total + at + row, summed)

    weight = tl.load(beta + first + rows, mask=in_rows, other=0.0)
    lower = weight[:, None] * _scores(k, k, summed, first, rows, in_rows, d_k, BLOCK_K, ROWS)
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
def _states(
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
    s = _tile(state + at_state, key, key < d_k, value, d_v)
    for chunk in range(chunks):
        rows, in_rows = row * heads, row < n - chunk * ROWS
        first = _first_row(chunk, head, n, heads, ROWS)
        at = head.to(tl.int64) * chunks + chunk
        _put(starts + at * d_k * d_v, key, key < d_k, value, d_v, s)
        tile_k = _tile(k + first * d_k, rows, in_rows, key, d_k)
        tile_v = _tile(v + first * d_v, rows, in_rows, value, d_v)
        weight = tl.load(beta + first + rows, mask=in_rows, other=0.0)
        summed = tl.load(total + at * ROWS + row)
        last = tl.load(total + at * ROWS + ROWS - 1)
        solved = tl.load(inverse + at * ROWS * ROWS + row[:, None] * ROWS + row[None, :])

        past = tl.exp(summed)[:, None] * _matmul(tile_k, s)
        u = _matmul(solved, weight[:, None] * (tile_v - past))
        _put(corrections + first * d_v, rows, in_rows, value, d_v, u)
        faded = u * tl.exp(last - summed)[:, None]
        s = tl.exp(last) * s + _matmul(tl.trans(tile_k), faded)
    _put(after + at_state, key, key < d_k, value, d_v, s)


@triton.jit
def _outputs(
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
    first = _first_row(chunk, head, n, heads, ROWS)
    at = head.to(tl.int64) * chunks + chunk
    summed = tl.load(total + at * ROWS + row)
    o = tl.zeros([ROWS, BLOCK_V], dtype=tl.float32)
    for column in range(0, d_k, BLOCK_K):
        key = column + tl.arange(0, BLOCK_K)
        tile_q = _tile(q + first * d_k, rows, in_rows, key, d_k)
        o += _matmul(tile_q, _tile(starts + at * d_k * d_v, key, key < d_k, value, d_v))
    o *= tl.exp(summed)[:, None]
    scores = _scores(q, k, summed, first, rows, in_rows, d_k, BLOCK_K, ROWS)
    o += _matmul(scores, _tile(corrections + first * d_v, rows, in_rows, value, d_v))
    _put(output + first * d_v, rows, in_rows, value, d_v, o)


@triton.jit
def _backward_outputs(
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
    first = _first_row(chunk, head, n, heads, ROWS)
    summed = tl.load(total + (head.to(tl.int64) * chunks + chunk) * ROWS + row)
    scores = _scores(q, k, summed, first, rows, in_rows, d_k, BLOCK_K, ROWS)
    d_o = _tile(d_output + first * d_v, rows, in_rows, value, d_v)
    _put(inside + first * d_v, rows, in_rows, value, d_v, _matmul(tl.trans(scores), d_o))


@triton.jit
def _backward_states(
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
    d_s = _tile(d_after + at_state, key, key < d_k, value, d_v)
    for back in range(chunks):
        chunk = chunks - 1 - back
        rows, in_rows = row * heads, row < n - chunk * ROWS
        first = _first_row(chunk, head, n, heads, ROWS)
        at = head.to(tl.int64) * chunks + chunk
        _put(ends + at * d_k * d_v, key, key < d_k, value, d_v, d_s)
        weight = tl.load(beta + first + rows, mask=in_rows, other=0.0)[:, None]
        summed = tl.load(total + at * ROWS + row)
        last = tl.load(total + at * ROWS + ROWS - 1)
        solved = tl.load(inverse + at * ROWS * ROWS + row[:, None] * ROWS + row[None, :])
        since = tl.exp(summed)[:, None]

        tile_k = _tile(k + first * d_k, rows, in_rows, key, d_k)
        d_u = _tile(inside + first * d_v, rows, in_rows, value, d_v)
        d_u += tl.exp(last - summed)[:, None] * _matmul(tile_k, d_s)
        d_r = _matmul(tl.trans(solved), d_u)
        _put(right + first * d_v, rows, in_rows, value, d_v, d_r)
        d_r *= weight
        _put(grad_v + first * d_v, rows, in_rows, value, d_v, d_r)
        d_s = tl.exp(last) * d_s - _matmul(tl.trans(tile_k), since * d_r)
        tile_q = _tile(q + first * d_k, rows, in_rows, key, d_k)
        d_o = _tile(d_output + first * d_v, rows, in_rows, value, d_v)
        d_s += _matmul(tl.trans(tile_q), since * d_o)
    _put(grad_state + at_state, key, key < d_k, value, d_v, d_s)


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
    first = _first_row(chunk, head, n, heads, ROWS)
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
        u = _tile(corrections + first * d_v, rows, in_rows, value, d_v)
        d_o = _tile(d_output + first * d_v, rows, in_rows, value, d_v)
        d_r = _tile(right + first * d_v, rows, in_rows, value, d_v)
        s = _tile(starts + at_state, key, key < d_k, value, d_v)
        d_s = _tile(ends + at_state, key, key < d_k, value, d_v)
        d_scores += _matmul(d_o, tl.trans(u))
        d_lower -= _matmul(d_r, tl.trans(u))
        d_q += _matmul(d_o, tl.trans(s))
        d_asking -= _matmul(d_r, tl.trans(s))
        d_written += _matmul(u, tl.trans(d_s))
        d_end += tl.sum(s * d_s)
        if part == 0:
            d_beta += tl.sum(_tile(v + first * d_v, rows, in_rows, value, d_v) * d_r, axis=1)

    tile_q = _tile(q + first * d_k, rows, in_rows, key, d_k)
    tile_k = _tile(k + first * d_k, rows, in_rows, key, d_k)
    weight = tl.load(beta + first + rows, mask=in_rows, other=0.0)
    summed = tl.load(total + at + row)
    last = tl.load(total + at + ROWS - 1)
    decay = _decay(summed, ROWS)
    since = tl.exp(summed)[:, None]
    d_scores *= decay
    d_lower = tl.where(row[:, None] > row[None, :], d_lower * decay, 0.0)

    d_q = since * d_q + _matmul(d_scores, tile_k)
    d_asking = since * d_asking + _matmul(d_lower, tile_k)
    d_written *= tl.exp(last - summed)[:, None]
    d_end = tl.exp(last) * d_end + tl.sum(tile_k * d_written)
    d_asked = d_written + _matmul(tl.trans(d_scores), tile_q)
    d_asked += _matmul(tl.trans(d_lower * weight[:, None]), tile_k)
    d_beta += tl.sum(tile_k * d_asking, axis=1)
    d_asking *= weight[:, None]

    d_total = tl.sum(tile_q * d_q + tile_k * (d_asking - d_asked), axis=1)
    d_total = tl.where(row == ROWS - 1, d_total + d_end, d_total)
    _put(grad_q + first * d_k, rows, in_rows, key, d_k, d_q)
    _put(grad_k + first * d_k, rows, in_rows, key, d_k, d_asking + d_asked)
    at_part = part.to(tl.int64) * tokens + first + rows
    tl.store(grad_g + at_part, tl.cumsum(d_total, axis=0, reverse=True), mask=in_rows)
    tl.store(grad_beta + at_part, d_beta, mask=in_rows)
