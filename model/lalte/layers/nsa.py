"""Native sparse attention (NSA, arXiv 2502.11089): compressed, selected and window branches.

A token's buffer row is its position, as in full attention. Besides the keys and values, the layer
holds the mean of every complete block, which is what queries score blocks by.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from lalte.layers.attention import Attention
from lalte.layers.linear import Linear
from lalte.state.tensors import NSAState
from lalte_kernels import rope
from lalte_kernels.nsa import Sparsity, nsa, pool_blocks

if TYPE_CHECKING:
    from lalte.config import ModelConfig, NSAConfig
    from lalte.layers.mixer import Where

BRANCHES = 3  # compressed, selected, window: the order of the gates


class NativeSparseAttention(Attention[NSAState]):
    """Each head adds up its three branches, each weighed by a sigmoid gate of the token."""

    def __init__(
        self, config: ModelConfig, layer: NSAConfig, dtype: torch.dtype, device: torch.device
    ) -> None:
        super().__init__(config, dtype, device)
        self.sparsity = Sparsity(layer.block_size, layer.num_blocks, layer.window)
        self.g_proj = Linear(config.hidden_size, self.heads * BRANCHES, dtype, device)

    def project(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return *super().project(x), self.g_proj(x)

    def split(
        self, inputs: tuple[torch.Tensor, ...], position: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return q, k, v and gates as `nsa` takes them, q and k turned by their positions.

        inputs: what `project` returned, each [lanes, n, features]. position: int64 [lanes, n].
        """
        lanes, n = position.shape
        q, k, v = self.split_heads(inputs[:3])
        gates = inputs[3].reshape(lanes, n, self.kv_heads, -1, BRANCHES).permute(0, 2, 3, 1, 4)
        q = rope(q, position[:, None, None], self.theta)
        k = rope(k, position[:, None], self.theta)
        return q, k, v, gates.sigmoid()

    def advance(
        self, inputs: tuple[torch.Tensor, ...], state: NSAState, where: Where
    ) -> torch.Tensor:
        n = inputs[0].shape[1]
        position = where.starts[0] + where.relative
        first = where.starts[0] + where.filled[0]
        q, k, v, gates = self.split(inputs, position)
        state.key[:, :, first : first + n] = k
        state.value[:, :, first : first + n] = v
        self._pool(state, first, first + n)
        mixed = nsa(q, *state, gates, position[:, 0], self.sparsity)
        return mixed.permute(0, 3, 1, 2, 4).reshape(1, n, self.heads * self.head_dim)

    def roll(self, state: NSAState, start: int, tokens: torch.Tensor) -> None:
        """Nothing to do: rows stay where they were written."""

    def prepare(self, state: NSAState, start: int) -> None:
        self._pool(state, 0, start)

    def _pool(self, state: NSAState, first: int, last: int) -> None:
        """Renew the means of the blocks that tokens first .. last - 1 complete."""
        size = self.sparsity.block_size
        # One block at a time, so that a mean's bits do not depend on how many end together.
        for block in range(first // size, last // size):
            rows = slice(block * size, (block + 1) * size)
            state.pooled_key[:, :, block] = pool_blocks(state.key[:, :, rows], size)[:, :, 0]
            state.pooled_value[:, :, block] = pool_blocks(state.value[:, :, rows], size)[:, :, 0]
