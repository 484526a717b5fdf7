"""Attention of rows to the keys that a mask shows them, with or without a key of no value."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

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

if TYPE_CHECKING:
    from collections.abc import Iterator


class Mask(NamedTuple):
    """visible: [batch, kv_heads, n, tail]; earlier: [batch, kv_heads, before]; bytes, strided."""

    visible: torch.Tensor
    earlier: torch.Tensor

    @classmethod
    def of(
        cls, visible: torch.Tensor, earlier: torch.Tensor | None, sizes: tuple[int, int, int, int]
    ) -> Mask:
        """Return the op's masks. sizes: batch, kv_heads, n, keys."""
        batch, heads, n, keys = sizes
        tail = visible.shape[-1]
        if earlier is None:
            earlier = torch.ones(1, dtype=torch.bool, device=visible.device)
        return cls(
            visible.expand(batch, heads, n, tail).view(torch.uint8),
            earlier.expand(batch, heads, keys - tail).view(torch.uint8),
        )

    def arguments(self) -> Iterator[torch.Tensor | int]:
        """Give what `_seen` takes: the two and their strides, n, and `before`."""
        yield from self
        yield from self.visible.stride()
        yield from self.earlier.stride()
        yield from (self.visible.shape[2], self.earlier.shape[2])


def attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: Mask,
    null_logit: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return softmax attention, like q.

    q: [batch, kv_heads, rows, d], row r being query r % n. k, v: [batch, kv_heads, keys, d].
    null_logit: [batch, kv_heads, rows], each row's score of one key more, whose value is zero.
    """
    dense = (x if x.stride(-1) == 1 else x.contiguous() for x in (k, v))
    mixed: torch.Tensor = _Attention.apply(q.contiguous(), *dense, null_logit, mask)
    return mixed


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        null_logit: torch.Tensor | None,
        mask: Mask,
    ) -> torch.Tensor:
        batch, heads, rows, d = q.shape
        tiles = Tiles.of(rows, q)
        mixed = torch.empty_like(q)
        logsum = q.new_empty(batch, heads, rows, dtype=torch.float32)
        null = None if null_logit is None else null_logit.float().contiguous()
        forward[(triton.cdiv(rows, tiles.rows), batch * heads)](
            *(q, k, v, null, mixed, logsum),
            *(*mask.arguments(), *k.stride()[:3], *v.stride()[:3]),
            *(heads, rows, k.shape[2], d, d**-0.5),
            ROWS=tiles.rows,
            KEYS=tiles.keys,
            BLOCK=block(d),
            num_warps=tiles.warps,
            num_stages=1,
        )
        ctx.save_for_backward(q, k, v, null_logit, mixed, logsum, *mask)
        return mixed

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        q, k, v, null_logit, mixed, logsum, *masks = ctx.saved_tensors
        mask = Mask(*masks)
        batch, heads, rows, d = q.shape
        tiles = Tiles.of(rows, q)
        grad = grad.contiguous()
        shares = (grad.float() * mixed.float()).sum(dim=-1)
        grad_q = torch.empty_like(q)
        grad_k = k.new_empty(k.shape)
        grad_v = v.new_empty(v.shape)
        shared = (*mask.arguments(), *k.stride()[:3], *v.stride()[:3])
        sizes = (heads, rows, k.shape[2], d, d**-0.5)
        backward_rows[(triton.cdiv(rows, tiles.rows), batch * heads)](
            *(q, k, v, grad, logsum, shares, grad_q, *shared, *sizes),
            ROWS=tiles.rows,
            KEYS=tiles.keys,
            BLOCK=block(d),
            num_warps=tiles.warps,
            num_stages=1,
        )
        backward_keys[(triton.cdiv(k.shape[2], tiles.keys), batch * heads)](
            *(q, k, v, grad, logsum, shares, grad_k, grad_v, *shared, *sizes),
            ROWS=tiles.rows,
            KEYS=tiles.keys,
            BLOCK=block(d),
            num_warps=tiles.warps,
            num_stages=1,
        )
        if null_logit is None:
            return grad_q, grad_k, grad_v, None, None
        # Its value is zero, so that its weight only takes from the others'.
        grad_null = -(null_logit.float() - logsum).exp() * shares
        return grad_q, grad_k, grad_v, grad_null.to(null_logit.dtype), None


@triton.jit
def _seen(
    visible,
    earlier,
    visible_batch,
    visible_head,
    visible_query,
    visible_key,
    earlier_batch,
    earlier_head,
    earlier_key,
    n,
    before,
    batch,
    head,
    row,
    rows,
    key,
    keys,
):
    """Which rows of a tile see which of its keys."""
    at = visible + batch * visible_batch + head * visible_head
    at += (row % n).to(tl.int64)[:, None] * visible_query
    late = (key >= before) & (key < keys)
    there = (row < rows)[:, None] & late[None, :]
    by_each = tl.load(at + (key - before)[None, :] * visible_key, mask=there, other=0)
    at = earlier + batch * earlier_batch + head * earlier_head
    by_all = tl.load(at + key * earlier_key, mask=key < before, other=0)
    return (by_each != 0) | ((by_all != 0)[None, :] & (row < rows)[:, None])


@triton.jit
def forward(
    q,
    k,
    v,
    null,
    mixed,
    logsum,
    visible,
    earlier,
    visible_batch,
    visible_head,
    visible_query,
    visible_key,
    earlier_batch,
    earlier_head,
    earlier_key,
    n,
    before,
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
    out = tl.zeros([ROWS, BLOCK], dtype=tl.float32)
    if null is None:
        highest = tl.full([ROWS], LOWEST, dtype=tl.float32)
        total = tl.zeros([ROWS], dtype=tl.float32)
    else:  # its key is the first one met, and has nothing to add to `out`
        highest = tl.load(null + index * rows + row, mask=row < rows, other=0.0)
        total = tl.full([ROWS], 1.0, dtype=tl.float32)
    for first in range(0, keys, KEYS):
        key = first + tl.arange(0, KEYS)
        seen = _seen(
            *(visible, earlier, visible_batch, visible_head, visible_query, visible_key),
            *(earlier_batch, earlier_head, earlier_key, n, before),
            *(batch, head, row, rows, key, keys),
        )
        if tl.max(tl.max(seen.to(tl.int32), axis=1), axis=0) > 0:
            highest, total, out = meet(
                *(tile_q, k, v, key, keys, k_row, v_row, column, d, scale, seen),
                *(highest, total, out),
            )
    finish(
        *(mixed + index * rows * d, logsum + index * rows, row, row < rows, column, d),
        *(highest, total, out),
    )


@triton.jit
def backward_rows(
    q,
    k,
    v,
    grad,
    logsum,
    shares,
    grad_q,
    visible,
    earlier,
    visible_batch,
    visible_head,
    visible_query,
    visible_key,
    earlier_batch,
    earlier_head,
    earlier_key,
    n,
    before,
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
    d_q = tl.zeros([ROWS, BLOCK], dtype=tl.float32)
    for first in range(0, keys, KEYS):
        key = first + tl.arange(0, KEYS)
        seen = _seen(
            *(visible, earlier, visible_batch, visible_head, visible_query, visible_key),
            *(earlier_batch, earlier_head, earlier_key, n, before),
            *(batch, head, row, rows, key, keys),
        )
        if tl.max(tl.max(seen.to(tl.int32), axis=1), axis=0) > 0:
            d_q += grad_of_rows(
                *(tile_q, d_out, logs, share_of_out, k, v, key, keys, k_row, v_row),
                *(column, d, scale, seen),
            )
    store_tile(grad_q + index * rows * d, row, row < rows, column, d, d_q)


@triton.jit
def backward_keys(
    q,
    k,
    v,
    grad,
    logsum,
    shares,
    grad_k,
    grad_v,
    visible,
    earlier,
    visible_batch,
    visible_head,
    visible_query,
    visible_key,
    earlier_batch,
    earlier_head,
    earlier_key,
    n,
    before,
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
    for first in range(0, rows, ROWS):
        row = first + tl.arange(0, ROWS)
        seen = _seen(
            *(visible, earlier, visible_batch, visible_head, visible_query, visible_key),
            *(earlier_batch, earlier_head, earlier_key, n, before),
            *(batch, head, row, rows, key, keys),
        )
        if tl.max(tl.max(seen.to(tl.int32), axis=1), axis=0) > 0:
            d_k, d_v = grad_of_keys(
                *(tile_k, tile_v, q + index * rows * d, grad + index * rows * d),
                *(logsum + index * rows, shares + index * rows),
                *(row, row < rows, column, d, scale, seen, d_k, d_v),
            )
    store_tile(grad_k + index * keys * d, key, key < keys, column, d, d_k)
    store_tile(grad_v + index * keys * d, key, key < keys, column, d, d_v)
