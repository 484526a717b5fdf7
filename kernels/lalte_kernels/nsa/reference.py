"""The definition, in fp32 (fp64 for fp64 inputs), one query at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from lalte_kernels.nsa import Sparsity


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
    compute = torch.float64 if q.dtype == torch.float64 else torch.float32
    wide = [x.to(compute) for x in (q, k, v, pooled_k, pooled_v, gates)]
    batch, heads, _, n, _ = q.shape
    out = torch.empty(q.shape, dtype=compute, device=q.device)
    for b in range(batch):
        for h in range(heads):
            queries, keys, values, block_keys, block_values, gate = (x[b, h] for x in wide)
            for i in range(n):
                position = int(start[b]) + i
                complete = (position + 1) // sparsity.block_size
                compressed, probability = _attend(
                    queries[:, i], block_keys[:complete], block_values[:complete]
                )
                rows = _chosen_rows(probability.mean(dim=0), position, sparsity)
                selected, _ = _attend(queries[:, i], keys[rows], values[rows])
                latest = slice(max(position + 1 - sparsity.window, 0), position + 1)
                window, _ = _attend(queries[:, i], keys[latest], values[latest])
                branches = torch.stack([compressed, selected, window], dim=-1)
                out[b, h, :, i] = (branches * gate[:, i, None]).sum(dim=-1)
    return out.to(q.dtype)


def _attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """q: [group, d]; k, v: [keys, d] -> ([group, d], probabilities [group, keys])."""
    probability = (q @ k.T * q.shape[-1] ** -0.5).softmax(dim=-1)
    return probability @ v, probability


def _chosen_rows(importance: torch.Tensor, position: int, sparsity: Sparsity) -> list[int]:
    """Positions, rising, of the tokens that the query at `position` reads in full."""
    size, current = sparsity.block_size, position // sparsity.block_size
    always = {0, current, max(current - 1, 0)}
    scores = importance.tolist()
    others = [c for c in range(len(scores)) if c not in always]
    others.sort(key=lambda c: (-scores[c], c))
    chosen = always | set(others[: max(sparsity.num_blocks - len(always), 0)])
    return [j for c in sorted(chosen) for j in range(c * size, min((c + 1) * size, position + 1))]


def pool_blocks(x: torch.Tensor, block_size: int) -> torch.Tensor:
    compute = torch.float64 if x.dtype == torch.float64 else torch.float32
    blocks = x.shape[-2] // block_size
    out = torch.empty(*x.shape[:-2], blocks, x.shape[-1], dtype=compute, device=x.device)
    for c in range(blocks):
        rows = x[..., c * block_size : (c + 1) * block_size, :].to(compute)
        out[..., c, :] = rows.sum(dim=-2) / block_size
    return out.to(x.dtype)
