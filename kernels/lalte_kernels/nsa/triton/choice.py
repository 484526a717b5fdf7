"""Which blocks each query reads in full: those of the highest probability, and three always."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

from lalte_kernels.blocks import block
from lalte_kernels.sparse_attention.triton.tiles import Tiles, load_tile, matmul

if TYPE_CHECKING:
    from lalte_kernels.nsa import Sparsity

MOST_BLOCKS = 16384  # of a stream: a program of `pick_blocks` holds the scores of all

FORCED = tl.constexpr(2.0)
"""Ranks above every probability."""

HIDDEN = tl.constexpr(-1.0)
"""Ranks below every probability."""


def choose(
    q: torch.Tensor,
    logsum: torch.Tensor,
    pooled_k: torch.Tensor,
    start: torch.Tensor,
    group: int,
    keys: int,
    sparsity: Sparsity,
) -> torch.Tensor:
    """Return the chosen blocks, best first: int32 [batch, kv_heads, n, num_blocks].

    Where a query has fewer blocks than it may choose, the rest is the number of all blocks.
    q: [batch, kv_heads, n * group, d], query after query. logsum: of the compressed branch, with
    pooled_k [batch, kv_heads, blocks, d]. keys: rows that the keys have room for.
    """
    batch, heads, rows, d = q.shape
    n, pooled = rows // group, pooled_k.shape[2]
    size, count, _ = sparsity
    blocks = triton.cdiv(keys, size)
    tiles = Tiles.of(n, q)
    # Only what is read is written: the probabilities of complete blocks.
    importance = logsum.new_empty(batch, heads, n, pooled)
    score_blocks[(triton.cdiv(n, tiles.rows), triton.cdiv(pooled, tiles.keys), batch * heads)](
        *(q, logsum, pooled_k, start, importance, group, size, *pooled_k.stride()[:3]),
        *(heads, n, pooled, d, d**-0.5),
        QUERIES=tiles.rows,
        KEYS=tiles.keys,
        BLOCK=block(d),
        num_warps=tiles.warps,
        num_stages=1,
    )
    chosen = torch.full((batch, heads, n, count), blocks, dtype=torch.int32, device=q.device)
    pick_blocks[(n, batch * heads)](
        *(importance, start, chosen, size, count, heads, n, pooled),
        BLOCKS=block(blocks),
        num_warps=1 if blocks <= 512 else 8,
    )
    return chosen


@triton.jit
def score_blocks(
    q,
    logsum,
    pooled_k,
    start,
    importance,
    group,
    size,
    k_batch,
    k_head,
    k_row,
    heads,
    n,
    pooled,
    d,
    scale,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Average the compressed branch's probabilities over the heads of a group."""
    index = tl.program_id(2).to(tl.int64)
    batch, head = index // heads, index % heads
    query = tl.program_id(0) * QUERIES + tl.arange(0, QUERIES)
    key = tl.program_id(1) * KEYS + tl.arange(0, KEYS)
    end = (tl.load(start + batch).to(tl.int32) + query + 1) // size
    seen = (query < n)[:, None] & (key[None, :] < end[:, None])
    if tl.max(tl.max(seen.to(tl.int32), axis=1), axis=0) > 0:
        column = tl.arange(0, BLOCK)
        pooled_k += batch * k_batch + head * k_head
        tile_k = load_tile(pooled_k, key, key < pooled, k_row, column, d)
        total = tl.zeros([QUERIES, KEYS], dtype=tl.float32)
        for member in range(group):
            row = query * group + member
            tile_q = load_tile(q + index * n * group * d, row, query < n, d, column, d)
            logs = tl.load(logsum + index * n * group + row, mask=query < n, other=0.0)
            scores = matmul(tile_q, tl.trans(tile_k)) * scale - logs[:, None]
            total += tl.exp(tl.where(seen, scores, float("-inf")))
        at = (index * n + query)[:, None] * pooled + key[None, :]
        tl.store(importance + at, total / group, mask=seen)


@triton.jit
def pick_blocks(
    importance,
    start,
    chosen,
    size,
    count,
    heads,
    n,
    pooled,
    BLOCKS: tl.constexpr,
):
    """Take the best block that is left, the older of equals, until enough are taken."""
    index = tl.program_id(1).to(tl.int64)
    query = index * n + tl.program_id(0)
    position = tl.load(start + index // heads).to(tl.int32) + tl.program_id(0)
    current = position // size
    number = tl.arange(0, BLOCKS)
    complete = number < (position + 1) // size
    score = tl.load(importance + query * pooled + number, mask=complete, other=HIDDEN)
    always = (number == 0) | (number == current) | (number == current - 1)
    score = tl.where(always, FORCED, score)
    for place in range(tl.minimum(count, current + 1)):
        best = tl.max(score, axis=0)
        oldest = tl.min(tl.where(score == best, number, BLOCKS), axis=0)
        tl.store(chosen + query * count + place, oldest)
        score = tl.where(number == oldest, HIDDEN, score)
