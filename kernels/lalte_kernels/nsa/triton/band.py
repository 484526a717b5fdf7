"""Attention of each query to a band of keys that ends where the query stands.

A key stands for a unit of `size` tokens: a token itself in the window, a block where keys are
pooled. At position p, (p + 1) // size units are complete; the query there sees the last `reach` of
them. Row r of a KV head's queries is query r // group.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from lalte_kernels.blocks import block
from lalte_kernels.sparse_attention.triton.tiles import (
    LOWEST,
    Tiles,
    finish,
    grad_of_keys,
    grad_of_rows,
    load_tile,
    meet,
    store_tile,
)


def band_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    start: torch.Tensor,
    group: int,
    size: int,
    reach: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (mixed, like q; logs of the sums of e^score [batch, kv_heads, rows], fp32).

    A row that sees no key gets zeros. No gradient flows through the logs.
    q: [batch, kv_heads, rows, d]. k, v: [batch, kv_heads, keys, d]. start: int64 [batch].
    """
    result: tuple[torch.Tensor, torch.Tensor] = _Band.apply(
        q, k, v, start.contiguous(), group, size, reach
    )
    return result


class _Band(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        start: torch.Tensor,
        group: int,
        size: int,
        reach: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        batch, heads, rows, d = q.shape
        tiles = Tiles.of(rows, q)
        mixed = torch.empty_like(q)
        logsum = q.new_empty(batch, heads, rows, dtype=torch.float32)
        band_forward[(triton.cdiv(rows, tiles.rows), batch * heads)](
            *(q, k, v, start, mixed, logsum, group, size, reach),
            *(*k.stride()[:3], *v.stride()[:3], heads, rows, k.shape[2], d, d**-0.5),
            ROWS=tiles.rows,
            KEYS=tiles.keys,
            BLOCK=block(d),
            num_warps=tiles.warps,
            num_stages=1,
        )
        ctx.save_for_backward(q, k, v, start, mixed, logsum)
        ctx.band = (group, size, reach)
        ctx.mark_non_differentiable(logsum)
        return mixed, logsum

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        q, k, v, start, mixed, logsum = ctx.saved_tensors
        batch, heads, rows, d = q.shape
        tiles = Tiles.of(rows, q)
        grad = grad.contiguous()
        shares = (grad.float() * mixed.float()).sum(dim=-1)
        grad_q, grad_k, grad_v = torch.empty_like(q), k.new_empty(k.shape), v.new_empty(v.shape)
        given = (q, k, v, start, grad, logsum, shares)
        sizes = (*k.stride()[:3], *v.stride()[:3], heads, rows, k.shape[2], d, d**-0.5)
        band_backward_rows[(triton.cdiv(rows, tiles.rows), batch * heads)](
            *(*given, grad_q, *ctx.band, *sizes),
            ROWS=tiles.rows,
            KEYS=tiles.keys,
            BLOCK=block(d),
            num_warps=tiles.warps,
            num_stages=1,
        )
        band_backward_keys[(triton.cdiv(k.shape[2], tiles.keys), batch * heads)](
            *(*given, grad_k, grad_v, *ctx.band, *sizes),
            ROWS=tiles.rows,
            KEYS=tiles.keys,
            BLOCK=block(d),
            num_warps=tiles.warps,
            num_stages=1,
        )
        return grad_q, grad_k, grad_v, None, None, None, None


@triton.jit
def _seen(end, reach, row, rows, key):
    """Which rows see which keys, `end` being the units that are complete at each row."""
    there = (row < rows)[:, None] & (key[None, :] < end[:, None])
    return there & (key[None, :] >= end[:, None] - reach)


@triton.jit
def band_forward(
    q,
    k,
    v,
    start,
    mixed,
    logsum,
    group,
    size,
    reach,
    k_batch,
    k_head,
    k_row,
    v_batch,
    v_head,
    v_row,
    heads,
    rows,
    keys,
    d,
    scale,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    index = tl.program_id(1).to(tl.int64)
    batch, head = index // heads, index % heads
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, BLOCK)
    k += batch * k_batch + head * k_head
    v += batch * v_batch + head * v_head
    tile_q = load_tile(q + index * rows * d, row, row < rows, d, column, d)
    end = (tl.load(start + batch).to(tl.int32) + row // group + 1) // size
    highest = tl.full([ROWS], LOWEST, dtype=tl.float32)
    total = tl.zeros([ROWS], dtype=tl.float32)
    out = tl.zeros([ROWS, BLOCK], dtype=tl.float32)
    first = tl.maximum(tl.min(end, axis=0) - reach, 0) // KEYS * KEYS
    for at in range(first, tl.max(tl.where(row < rows, end, 0), axis=0), KEYS):
        key = at + tl.arange(0, KEYS)
        seen = _seen(end, reach, row, rows, key)
        highest, total, out = meet(
            *(tile_q, k, v, key, keys, k_row, v_row, column, d, scale, seen),
            *(highest, total, out),
        )
    finish(
        *(mixed + index * rows * d, logsum + index * rows, row, row < rows, column, d),
        *(highest, total, out),
    )


@triton.jit
def band_backward_rows(
    q,
    k,
    v,
    start,
    grad,
    logsum,
    shares,
    grad_q,
    group,
    size,
    reach,
    k_batch,
    k_head,
    k_row,
    v_batch,
    v_head,
    v_row,
    heads,
    rows,
    keys,
    d,
    scale,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    index = tl.program_id(1).to(tl.int64)
    batch, head = index // heads, index % heads
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, BLOCK)
    k += batch * k_batch + head * k_head
    v += batch * v_batch + head * v_head
    tile_q = load_tile(q + index * rows * d, row, row < rows, d, column, d)
    d_out = load_tile(grad + index * rows * d, row, row < rows, d, column, d)
    logs = tl.load(logsum + index * rows + row, mask=row < rows, other=0.0)
    share_of_out = tl.load(shares + index * rows + row, mask=row < rows, other=0.0)
    end = (tl.load(start + batch).to(tl.int32) + row // group + 1) // size
    d_q = tl.zeros([ROWS, BLOCK], dtype=tl.float32)
    first = tl.maximum(tl.min(end, axis=0) - reach, 0) // KEYS * KEYS
    for at in range(first, tl.max(tl.where(row < rows, end, 0), axis=0), KEYS):
        key = at + tl.arange(0, KEYS)
        d_q += grad_of_rows(
            *(tile_q, d_out, logs, share_of_out, k, v, key, keys, k_row, v_row),
            *(column, d, scale, _seen(end, reach, row, rows, key)),
        )
    store_tile(grad_q + index * rows * d, row, row < rows, column, d, d_q)


@triton.jit
def band_backward_keys(
    q,
    k,
    v,
    start,
    grad,
    logsum,
    shares,
    grad_k,
    grad_v,
    group,
    size,
    reach,
    k_batch,
    k_head,
    k_row,
    v_batch,
    v_head,
    v_row,
    heads,
    rows,
    keys,
    d,
    scale,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    index = tl.program_id(1).to(tl.int64)
    batch, head = index // heads, index % heads
    key = tl.program_id(0) * KEYS + tl.arange(0, KEYS)
    column = tl.arange(0, BLOCK)
    tile_k = load_tile(k + batch * k_batch + head * k_head, key, key < keys, k_row, column, d)
    tile_v = load_tile(v + batch * v_batch + head * v_head, key, key < keys, v_row, column, d)
    d_k = tl.zeros([KEYS, BLOCK], dtype=tl.float32)
    d_v = tl.zeros([KEYS, BLOCK], dtype=tl.float32)
    # The first query whose past holds the tile's first unit, and the first whose band is past it.
    begin = tl.load(start + batch).to(tl.int32) + 1
    unit = tl.program_id(0) * KEYS
    first = tl.maximum((unit + 1) * size - begin, 0) * group
    last = tl.minimum(unit + KEYS, keys) + reach
    for at in range(first, tl.minimum((last * size - begin) * group, rows), ROWS):
        row = at + tl.arange(0, ROWS)
        seen = _seen((begin + row // group) // size, reach, row, rows, key)
        d_k, d_v = grad_of_keys(
            *(tile_k, tile_v, q + index * rows * d, grad + index * rows * d),
            *(logsum + index * rows, shares + index * rows),
            *(row, row < rows, column, d, scale, seen, d_k, d_v),
        )
    store_tile(grad_k + index * keys * d, key, key < keys, column, d, d_k)
    store_tile(grad_v + index * keys * d, key, key < keys, column, d, d_v)
