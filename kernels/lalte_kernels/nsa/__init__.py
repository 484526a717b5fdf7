"""Native sparse attention (NSA, arXiv 2502.11089): compressed, selected and window branches."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from lalte_kernels.dispatch import Op
from lalte_kernels.nsa import cpu, reference

if TYPE_CHECKING:
    import torch

# Block 0, the query's own block and the one before it are chosen whatever their scores.
ALWAYS_CHOSEN = 3

OP = Op("nsa", reference.nsa, cpu.nsa, gpu=("triton",), portable=True)
POOL = Op("pool_blocks", reference.pool_blocks, cpu.pool_blocks, portable=True)


class Sparsity(NamedTuple):
    """block_size: tokens of a block. num_blocks: blocks that a query reads in full, at least 3.

    window: latest keys that it reads besides, its own included.
    """

    block_size: int
    num_blocks: int
    window: int


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
    """Return gates[0] * compressed + gates[1] * selected + gates[2] * window, scale d^-0.5.

    The n queries of a batch row stand at positions start .. start + n - 1; key row j is position j.
    compressed: softmax over the mean-pooled blocks whose last token is at or before the query; 0
    where there is none. selected: softmax over the tokens j <= i of the num_blocks blocks that rank
    highest by the compressed probabilities, averaged over the heads of a group; equals go to the
    older block. window: softmax over i - window < j <= i. No gradient flows through the choice.

    q: [batch, kv_heads, group, n, d]. k, v: [batch, kv_heads, rows, d], rows >= start + n; q and k
    after RoPE. pooled_k, pooled_v: [batch, kv_heads, blocks, d], `pool_blocks` of k and v, at
    least for every block that is complete at start + n. gates: [batch, kv_heads, group, n, 3].
    start: int64 [batch]. What later rows and blocks hold does not matter as long as it is finite.
    Returns q's shape and dtype.
    """
    return OP.run(q.device, q, k, v, pooled_k, pooled_v, gates, start, sparsity)


def pool_blocks(x: torch.Tensor, block_size: int) -> torch.Tensor:
    """Return the mean of each complete block. x: [..., rows, d] -> [..., rows // block_size, d]."""
    return POOL.run(x.device, x, block_size)
