"""Attention of each query to the tokens of the blocks that were chosen for it.

Along the rows a program is a query with the heads of its group, and walks its blocks. Along the
keys a program is a part of a block, and walks the queries that chose it: they are sorted by block
beforehand, so that no two programs add to the same gradient.
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


def selected_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    chosen: torch.Tensor,
    start: torch.Tensor,
    group: int,
    size: int,
) -> torch.Tensor:
    """Return what each query takes from the tokens j <= i of its blocks of `size`, like q.

    q: [batch, kv_heads, n * group, d], query after query. k, v: [batch, kv_heads, keys, d].
    chosen: [batch, kv_heads, n, num_blocks], as `choose` gives it. start: int64 [batch].
    """
    mixed: torch.Tensor = _Selected.apply(q, k, v, chosen, start.contiguous(), group, size)
    return mixed


class _Selected(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        chosen: torch.Tensor,
        start: torch.Tensor,
        group: int,
        size: int,
    ) -> torch.Tensor:
        batch, heads, rows, d = q.shape
        n, count = chosen.shape[2:]
        tiles = Tiles.of(group, q)
        mixed = torch.empty_like(q)
        logsum = q.new_empty(batch, heads, rows, dtype=torch.float32)
        selected_forward[(n, batch * heads)](
            *(q, k, v, chosen, start, mixed, logsum, count, group, size),
            *(*k.stride()[:3], *v.stride()[:3], heads, n, k.shape[2], d, d**-0.5),
            ROWS=block(group),
            KEYS=min(tiles.keys, block(size)),
            BLOCK=block(d),
            num_warps=tiles.warps,
            num_stages=1,
        )
        ctx.save_for_backward(q, k, v, chosen, start, mixed, logsum)
        ctx.sizes = (group, size)
        return mixed

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        q, k, v, chosen, start, mixed, logsum = ctx.saved_tensors
        group, size = ctx.sizes
        batch, heads, rows, d = q.shape
        n, count = chosen.shape[2:]
        keys = k.shape[2]
        tiles = Tiles.of(rows, q)
        tile_keys = min(tiles.keys, block(size))
        grad = grad.contiguous()
        shares = (grad.float() * mixed.float()).sum(dim=-1)
        grad_q, grad_k, grad_v = torch.empty_like(q), k.new_empty(k.shape), v.new_empty(v.shape)
        sizes = (*k.stride()[:3], *v.stride()[:3], heads, n, keys, d, d**-0.5)
        selected_backward_rows[(n, batch * heads)](
            *(q, k, v, chosen, start, grad, logsum, shares, grad_q, count, group, size, *sizes),
            ROWS=block(group),
            KEYS=tile_keys,
            BLOCK=block(d),
            num_warps=tiles.warps,
            num_stages=1,
        )
        blocks = triton.cdiv(keys, size)
        queries, first = _by_block(chosen, blocks)
        selected_backward_keys[(blocks, triton.cdiv(size, tile_keys), batch * heads)](
            *(q, k, v, queries, first, start, grad, logsum, shares, grad_k, grad_v),
            *(count, group, size, *sizes),
            ROWS=tiles.rows,
            KEYS=tile_keys,
            BLOCK=block(d),
            num_warps=tiles.warps,
            num_stages=1,
        )
        return grad_q, grad_k, grad_v, None, None, None, None


def _by_block(chosen: torch.Tensor, blocks: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the queries in order of the blocks they chose, and where each block's begin.

    chosen: [batch, kv_heads, n, num_blocks] -> int64 [batch * kv_heads, n * num_blocks] and
    [batch * kv_heads, blocks + 1].
    """
    every = chosen.flatten(0, 1).flatten(1).sort(dim=-1, stable=True)
    numbers = torch.arange(blocks + 1, dtype=chosen.dtype, device=chosen.device)
    numbers = numbers.expand(every.values.shape[0], -1).contiguous()
    return every.indices // chosen.shape[-1], torch.searchsorted(every.values, numbers)


@triton.jit
def selected_forward(
    q,
    k,
    v,
    chosen,
    start,
    mixed,
    logsum,
    count,
    group,
    size,
    k_batch,
    k_head,
    k_row,
    v_batch,
    v_head,
    v_row,
    heads,
    n,
    keys,
    d,
    scale,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    index = tl.program_id(1).to(tl.int64)
    batch, head = index // heads, index % heads
    query = index * n + tl.program_id(0)
    member = tl.arange(0, ROWS)
    there = member < group
    column = tl.arange(0, BLOCK)
    k += batch * k_batch + head * k_head
    v += batch * v_batch + head * v_head
    position = tl.load(start + batch).to(tl.int32) + tl.program_id(0)
    tile_q = load_tile(q + query * group * d, member, there, d, column, d)
    highest = tl.full([ROWS], LOWEST, dtype=tl.float32)
    total = tl.zeros([ROWS], dtype=tl.float32)
    out = tl.zeros([ROWS, BLOCK], dtype=tl.float32)
    for place in range(tl.minimum(count, position // size + 1)):
        number = tl.load(chosen + query * count + place)
        for within in range(0, size, KEYS):
            token = within + tl.arange(0, KEYS)
            key = number * size + token
            seen = there[:, None] & ((token < size) & (key <= position))[None, :]
            highest, total, out = meet(
                *(tile_q, k, v, key, keys, k_row, v_row, column, d, scale, seen),
                *(highest, total, out),
            )
    finish(
        *(mixed + query * group * d, logsum + query * group, member, there, column, d),
        *(highest, total, out),
    )


@triton.jit
def selected_backward_rows(
    q,
    k,
    v,
    chosen,
    start,
    grad,
    logsum,
    shares,
    grad_q,
    count,
    group,
    size,
    k_batch,
    k_head,
    k_row,
    v_batch,
    v_head,
    v_row,
    heads,
    n,
    keys,
    d,
    scale,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    index = tl.program_id(1).to(tl.int64)
    batch, head = index // heads, index % heads
    query = index * n + tl.program_id(0)
    member = tl.arange(0, ROWS)
    there = member < group
    column = tl.arange(0, BLOCK)
    k += batch * k_batch + head * k_head
    v += batch * v_batch + head * v_head
    position = tl.load(start + batch).to(tl.int32) + tl.program_id(0)
    tile_q = load_tile(q + query * group * d, member, there, d, column, d)
    d_out = load_tile(grad + query * group * d, member, there, d, column, d)
    logs = tl.load(logsum + query * group + member, mask=there, other=0.0)
    share_of_out = tl.load(shares + query * group + member, mask=there, other=0.0)
    d_q = tl.zeros([ROWS, BLOCK], dtype=tl.float32)
    for place in range(tl.minimum(count, position // size + 1)):
        number = tl.load(chosen + query * count + place)
        for within in range(0, size, KEYS):
            token = within + tl.arange(0, KEYS)
            key = number * size + token
            seen = there[:, None] & ((token < size) & (key <= position))[None, :]
            d_q += grad_of_rows(
                *(tile_q, d_out, logs, share_of_out, k, v, key, keys, k_row, v_row),
                *(column, d, scale, seen),
            )
    store_tile(grad_q + query * group * d, member, there, column, d, d_q)


@triton.jit
def selected_backward_keys(
    q,
    k,
    v,
    queries,
    first,
    start,
    grad,
    logsum,
    shares,
    grad_k,
    grad_v,
    count,
    group,
    size,
    k_batch,
    k_head,
    k_row,
    v_batch,
    v_head,
    v_row,
    heads,
    n,
    keys,
    d,
    scale,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    index = tl.program_id(2).to(tl.int64)
    batch, head = index // heads, index % heads
    number = tl.program_id(0)
    token = tl.program_id(1) * KEYS + tl.arange(0, KEYS)
    key = number * size + token
    ours = (token < size) & (key < keys)
    column = tl.arange(0, BLOCK)
    tile_k = load_tile(k + batch * k_batch + head * k_head, key, ours, k_row, column, d)
    tile_v = load_tile(v + batch * v_batch + head * v_head, key, ours, v_row, column, d)
    d_k = tl.zeros([KEYS, BLOCK], dtype=tl.float32)
    d_v = tl.zeros([KEYS, BLOCK], dtype=tl.float32)
    begin = tl.load(start + batch).to(tl.int32)
    first += index * (tl.num_programs(0) + 1) + number
    end = tl.load(first + 1) * group
    for at in range(tl.load(first) * group, end, ROWS):
        row = at + tl.arange(0, ROWS)  # of the queries that chose the block, laid in a row
        there = row < end
        query = tl.load(queries + index * n * count + row // group, mask=there, other=0)
        seen = there[:, None] & ours[None, :] & (key[None, :] <= (begin + query)[:, None])
        d_k, d_v = grad_of_keys(
            *(tile_k, tile_v, q + index * n * group * d, grad + index * n * group * d),
            *(logsum + index * n * group, shares + index * n * group),
            *(query * group + row % group, there, column, d, scale, seen, d_k, d_v),
        )
    store_tile(grad_k + index * keys * d, key, ours, column, d, d_k)
    store_tile(grad_v + index * keys * d, key, ours, column, d, d_v)
