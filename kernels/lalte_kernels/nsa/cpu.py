"""NSA on CPUs: every branch is a batch of matrix products.

The selected branch reads either all keys behind a mask, or a copy of the chosen rows. Short streams
take the mask; with the copy, a token's cost does not grow with the stream but for the compressed
branch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from lalte_kernels.sparse_attention.cpu import sparse_attention

if TYPE_CHECKING:
    from lalte_kernels.nsa import Sparsity

# Attending to a row's copy, copying included, costs what attending to so many in place does:
# measured for blocks of 64 queries and for one, in bf16 and fp32 (4 to 8).
COPY_COST = 6
FORCED = 2.0  # ranks above every probability
HIDDEN = -1.0  # ranks below every probability


def nsa(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    pooled_k: torch.Tensor,
    pooled_v: torch.Tensor,
    gates: torch.Tensor,
    start: torch.Tensor,
    sparsity: Sparsity,
) -> torch.Tensor:
    n = q.shape[3]
    compute = torch.float64 if q.dtype == torch.float64 else torch.float32
    position = start[:, None] + torch.arange(n, device=q.device)
    rows = int(position[:, -1].max()) + 1
    compressed, probability = _compressed(
        q.to(compute), pooled_k.to(compute), pooled_v.to(compute), position, sparsity.block_size
    )
    chosen, usable = _choose(probability.detach().mean(dim=2), position, sparsity)
    if rows <= COPY_COST * chosen.shape[-1] * sparsity.block_size:
        visible = _chosen_mask(chosen, usable, position, rows, sparsity.block_size)
        selected = sparse_attention(q, k[:, :, :rows], v[:, :, :rows], visible)
    else:
        selected = _gathered(q, k, v, chosen, usable, position, sparsity.block_size)
    window = _window(q, k, v, position, sparsity.window)
    branches = torch.stack([compressed, selected.to(compute), window.to(compute)], dim=-1)
    return (branches * gates.to(compute)[..., None, :]).sum(dim=-1).to(q.dtype)


def _compressed(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, position: torch.Tensor, size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what was mixed, like q, and probabilities [batch, kv_heads, group, n, blocks]."""
    blocks = int(position.max() + 1) // size
    k, v = k[:, :, None, :blocks], v[:, :, None, :blocks]
    last = torch.arange(1, blocks + 1, device=q.device) * size - 1
    visible = (last <= position[..., None])[:, None, None]
    # Finite, and zeroed afterwards: a row that sees no block would have a softmax of NaN.
    scores = (q @ k.mT * q.shape[-1] ** -0.5).masked_fill(~visible, torch.finfo(q.dtype).min)
    probability = scores.softmax(dim=-1) * visible
    return probability @ v, probability


def _choose(
    importance: torch.Tensor, position: torch.Tensor, sparsity: Sparsity
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the chosen blocks, rising, and which may be read: [batch, kv_heads, n, blocks].

    importance: [batch, kv_heads, n, complete blocks].
    """
    size = sparsity.block_size
    current = (position // size)[:, None, :, None]
    block = torch.arange(int(position.max()) // size + 1, device=position.device)
    forced = (block == 0) | (block == current) | (block == current - 1)
    complete = (block + 1) * size - 1 <= position[:, None, :, None]
    padding = len(block) - importance.shape[-1]  # the open block has no score
    score = torch.nn.functional.pad(importance, (0, padding))
    score = score.masked_fill(~complete, HIDDEN).masked_fill(forced, FORCED)
    ranked = score.sort(dim=-1, descending=True, stable=True)
    count = min(sparsity.num_blocks, len(block))
    chosen, order = ranked.indices[..., :count].sort(dim=-1)
    return chosen, ranked.values[..., :count].gather(-1, order) > HIDDEN


def _chosen_mask(
    chosen: torch.Tensor, usable: torch.Tensor, position: torch.Tensor, rows: int, size: int
) -> torch.Tensor:
    """Return which keys each query reads: bool [batch, kv_heads, n, rows]."""
    blocks = -(-rows // size)
    mask = torch.zeros(*chosen.shape[:-1], blocks, dtype=torch.bool, device=chosen.device)
    mask.scatter_(-1, chosen, usable)
    causal = torch.arange(rows, device=chosen.device) <= position[:, None, :, None]
    return mask.repeat_interleave(size, dim=-1)[..., :rows] & causal


def _gathered(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    chosen: torch.Tensor,
    usable: torch.Tensor,
    position: torch.Tensor,
    size: int,
) -> torch.Tensor:
    batch, heads, group, n, d = q.shape
    row = chosen[..., None] * size + torch.arange(size, device=q.device)
    visible = usable[..., None] & (row <= position[:, None, :, None, None])
    row, visible = row.flatten(-2).clamp(max=k.shape[2] - 1), visible.flatten(-2)
    index = row.reshape(batch, heads, -1, 1).expand(-1, -1, -1, d)
    keys = k.gather(2, index).reshape(batch * heads, n, -1, d)
    values = v.gather(2, index).reshape(batch * heads, n, -1, d)
    # Each query has keys of its own, so it takes the place of a KV head.
    queries = q.permute(0, 1, 3, 2, 4).reshape(batch * heads, n, group, 1, d)
    mixed = sparse_attention(queries, keys, values, visible.reshape(batch * heads, n, 1, -1))
    return mixed.reshape(batch, heads, n, group, d).permute(0, 1, 3, 2, 4)


def _window(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, position: torch.Tensor, window: int
) -> torch.Tensor:
    """Attend to the latest keys; their rows are copied, for each batch row has its own."""
    n = q.shape[3]
    row = position[:, :1] - (window - 1) + torch.arange(window - 1 + n, device=q.device)
    own = position[..., None]
    visible = (row[:, None] <= own) & (row[:, None] > own - window) & (row[:, None] >= 0)
    lane = torch.arange(len(row), device=q.device)[:, None]
    keys = k[lane, :, row.clamp(min=0)].transpose(1, 2)
    values = v[lane, :, row.clamp(min=0)].transpose(1, 2)
    return sparse_attention(q, keys, values, visible[:, None])


def pool_blocks(x: torch.Tensor, block_size: int) -> torch.Tensor:
    compute = torch.float64 if x.dtype == torch.float64 else torch.float32
    blocks = x.shape[-2] // block_size
    whole = x[..., : blocks * block_size, :].to(compute)
    shape = (*x.shape[:-2], blocks, block_size, x.shape[-1])
    return whole.reshape(shape).mean(dim=-2).to(x.dtype)
