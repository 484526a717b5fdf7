"""Sparse attention as tiles of softmax that skip what no query of the tile sees.

The queries that share a KV head stand as rows of one matrix, group after group, so that a decoding
step fills a tile as far as its group goes. The mask is read through its own strides: broadcast
dimensions take no memory. Backwards, as in FlashAttention (arXiv 2205.14135), the weights are
computed again from the row sums, once along the keys for dq and once along the rows for dk and dv.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import triton
import triton.language as tl

from lalte_kernels.blocks import block

if TYPE_CHECKING:
    from collections.abc import Iterator

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
WIDEST_HEAD = 256  # columns that shared memory has room for

# Products of fp32 in three TF32 steps: on tensor cores, with errors near those of fp32.
PRECISION = tl.constexpr("tf32x3")


def refusal(
    q: torch.Tensor,
    k: torch.Tensor,  # noqa: ARG001 - one signature with the op
    v: torch.Tensor,  # noqa: ARG001
    visible: torch.Tensor,  # noqa: ARG001
    earlier: torch.Tensor | None = None,  # noqa: ARG001
) -> str | None:
    """Why these arguments must go elsewhere, or None."""
    if q.dtype not in DTYPES:
        return f"it takes float32, bfloat16 and float16, not {q.dtype}"
    if q.shape[-1] > WIDEST_HEAD:
        return f"heads have {q.shape[-1]} columns, more than {WIDEST_HEAD}"
    return None


def sparse_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    visible: torch.Tensor,
    earlier: torch.Tensor | None = None,
) -> torch.Tensor:
    batch, heads, group, n, d = q.shape
    tail = visible.shape[-1]
    before = k.shape[2] - tail
    if earlier is None:
        earlier = torch.ones(1, dtype=torch.bool, device=q.device)
    mask = _Mask(
        visible.expand(batch, heads, n, tail).view(torch.uint8),
        earlier.expand(batch, heads, before).view(torch.uint8),
    )
    rows = q.reshape(batch, heads, group * n, d)
    mixed: torch.Tensor = _Attention.apply(rows, _dense_rows(k), _dense_rows(v), mask)
    return mixed.view(q.shape)


class _Mask(NamedTuple):
    """visible: [batch, kv_heads, n, tail]; earlier: [batch, kv_heads, before]; bytes, strided."""

    visible: torch.Tensor
    earlier: torch.Tensor

    def arguments(self) -> Iterator[torch.Tensor | int]:
        """Give what `_seen` takes: the two and their strides, n, and `before`."""
        yield from self
        yield from self.visible.stride()
        yield from self.earlier.stride()
        yield from (self.visible.shape[2], self.earlier.shape[2])


def _dense_rows(x: torch.Tensor) -> torch.Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()


class _Tiles(NamedTuple):
    """Sides of a tile of scores, rows by keys, and the warps that share it."""

    rows: int
    keys: int
    warps: int

    @classmethod
    def of(cls, rows: int, x: torch.Tensor) -> _Tiles:
        """Return what registers have room for, by the machine code of sm_80 and sm_90."""
        width = block(x.shape[-1]) * x.element_size()  # bytes of a row of x
        if width <= 128:
            tiles = cls(64, 64, 4)
        elif width <= 256:
            tiles = cls(32, 32, 4)
        else:
            tiles = cls(16, 32, 8) if width <= 512 else cls(16, 16, 8)
        return tiles._replace(rows=min(tiles.rows, block(rows)))


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: _Mask
    ) -> torch.Tensor:
        batch, heads, rows, d = q.shape
        tiles = _Tiles.of(rows, q)
        mixed = torch.empty_like(q)
        logsum = q.new_empty(batch, heads, rows, dtype=torch.float32)
        _forward[(triton.cdiv(rows, tiles.rows), batch * heads)](
            *(q, k, v, mixed, logsum, *mask.arguments(), *k.stride()[:3], *v.stride()[:3]),
            *(heads, rows, k.shape[2], d, d**-0.5),
            ROWS=tiles.rows,
            KEYS=tiles.keys,
            BLOCK=block(d),
            num_warps=tiles.warps,
            num_stages=1,
        )
        ctx.save_for_backward(q, k, v, mixed, logsum, *mask)
        return mixed

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        q, k, v, mixed, logsum, *masks = ctx.saved_tensors
        mask = _Mask(*masks)
        batch, heads, rows, d = q.shape
        tiles = _Tiles.of(rows, q)
        grad = grad.contiguous()
        shares = (grad.float() * mixed.float()).sum(dim=-1)
        grad_q = torch.empty_like(q)
        grad_k = k.new_empty(k.shape)
        grad_v = v.new_empty(v.shape)
        shared = (*mask.arguments(), *k.stride()[:3], *v.stride()[:3])
        sizes = (heads, rows, k.shape[2], d, d**-0.5)
        _backward_rows[(triton.cdiv(rows, tiles.rows), batch * heads)](
            *(q, k, v, grad, logsum, shares, grad_q, *shared, *sizes),
            ROWS=tiles.rows,
            KEYS=tiles.keys,
            BLOCK=block(d),
            num_warps=tiles.warps,
            num_stages=1,
        )
        _backward_keys[(triton.cdiv(k.shape[2], tiles.keys), batch * heads)](
            *(q, k, v, grad, logsum, shares, grad_k, grad_v, *shared, *sizes),
            ROWS=tiles.rows,
            KEYS=tiles.keys,
            BLOCK=block(d),
            num_warps=tiles.warps,
            num_stages=1,
        )
        return grad_q, grad_k, grad_v, None


@triton.jit
def _matmul(a, b):
    return tl.dot(a, b, input_precision=PRECISION)


@triton.jit
def _tile(base, row, rows, stride, column, d):
    return tl.load(
        base + row.to(tl.int64)[:, None] * stride + column[None, :],
        mask=(row < rows)[:, None] & (column < d)[None, :],
        other=0.0,
    )


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
def _forward(
    q,
    k,
    v,
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
    tile_q = _tile(q + index * rows * d, row, rows, d, column, d)
    highest = tl.full([ROWS], -1e38, dtype=tl.float32)  # finite: differences stay numbers
    total = tl.zeros([ROWS], dtype=tl.float32)
    out = tl.zeros([ROWS, BLOCK], dtype=tl.float32)
    for first in range(0, keys, KEYS):
        key = first + tl.arange(0, KEYS)
        seen = _seen(
            *(visible, earlier, visible_batch, visible_head, visible_query, visible_key),
            *(earlier_batch, earlier_head, earlier_key, n, before),
            *(batch, head, row, rows, key, keys),
        )
        if tl.max(tl.max(seen.to(tl.int32), axis=1), axis=0) > 0:
            scores = _matmul(tile_q, tl.trans(_tile(k, key, keys, k_row, column, d))) * scale
            scores = tl.where(seen, scores, float("-inf"))
            higher = tl.maximum(highest, tl.max(scores, axis=1))
            share = tl.exp(scores - higher[:, None])
            fade = tl.exp(highest - higher)
            highest = higher
            total = total * fade + tl.sum(share, axis=1)
            tile_v = _tile(v, key, keys, v_row, column, d)
            out = out * fade[:, None] + _matmul(share.to(tile_v.dtype), tile_v)
    total = tl.where(row < rows, total, 1.0)
    there = (row < rows)[:, None] & (column < d)[None, :]
    at = mixed + (index * rows + row)[:, None] * d + column[None, :]
    tl.store(at, (out / total[:, None]).to(mixed.dtype.element_ty), mask=there)
    tl.store(logsum + index * rows + row, highest + tl.log(total), mask=row < rows)


@triton.jit
def _backward_rows(
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
    tile_q = _tile(q + index * rows * d, row, rows, d, column, d)
    d_out = _tile(grad + index * rows * d, row, rows, d, column, d)
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
            tile_k = _tile(k, key, keys, k_row, column, d)
            scores = _matmul(tile_q, tl.trans(tile_k)) * scale - logs[:, None]
            share = tl.exp(tl.where(seen, scores, float("-inf")))
            d_share = _matmul(d_out, tl.trans(_tile(v, key, keys, v_row, column, d)))
            d_scores = share * (d_share - share_of_out[:, None]) * scale
            d_q += _matmul(d_scores.to(tile_k.dtype), tile_k)
    there = (row < rows)[:, None] & (column < d)[None, :]
    at = grad_q + (index * rows + row)[:, None] * d + column[None, :]
    tl.store(at, d_q.to(grad_q.dtype.element_ty), mask=there)


@triton.jit
def _backward_keys(
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
    tile_k = _tile(k + batch * k_batch + head * k_head, key, keys, k_row, column, d)
    tile_v = _tile(v + batch * v_batch + head * v_head, key, keys, v_row, column, d)
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
            tile_q = _tile(q + index * rows * d, row, rows, d, column, d)
            d_out = _tile(grad + index * rows * d, row, rows, d, column, d)
            logs = tl.load(logsum + index * rows + row, mask=row < rows, other=0.0)
            share_of_out = tl.load(shares + index * rows + row, mask=row < rows, other=0.0)
            scores = _matmul(tile_q, tl.trans(tile_k)) * scale - logs[:, None]
            share = tl.exp(tl.where(seen, scores, float("-inf")))
            d_v += _matmul(tl.trans(share.to(d_out.dtype)), d_out)
            d_share = _matmul(d_out, tl.trans(tile_v))
            d_scores = share * (d_share - share_of_out[:, None]) * scale
            d_k += _matmul(tl.trans(d_scores.to(tile_q.dtype)), tile_q)
    there = (key < keys)[:, None] & (column < d)[None, :]
    at = (index * keys + key)[:, None] * d + column[None, :]
    tl.store(grad_k + at, d_k.to(grad_k.dtype.element_ty), mask=there)
    tl.store(grad_v + at, d_v.to(grad_v.dtype.element_ty), mask=there)
