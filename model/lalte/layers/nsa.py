"""Native sparse attention (NSA, arXiv 2502.11089): compressed, selected and window branches.

A token's buffer row is its position, as in full attention. Besides the keys and values, the layer
holds the mean of every complete block, which is what queries score blocks by.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from lalte.layers.linear import Linear
from lalte.layers.mixer import Mixer
from lalte.state.tensors import NSAState
from lalte_kernels import rope
from lalte_kernels.nsa import Sparsity, nsa, pool_blocks

if TYPE_CHECKING:
    from lalte.config import ModelConfig, NSAConfig
    from lalte.layers.mixer import Where

BRANCHES = 3  # compressed, selected, window: the order of the gates


class NativeSparseAttention(Mixer[NSAState]):
    """Each head adds up its three branches, each weighed by a sigmoid gate of the token."""

    def __init__(
        self, config: ModelConfig, layer: NSAConfig, dtype: torch.dtype, device: torch.device
    ) -> None:
        super().__init__()
        self.heads = config.num_heads
        self.kv_heads = config.num_kv_heads
        self.head_dim = config.head_dim
        self.theta = config.rope_theta
        self.sparsity = Sparsity(layer.block_size, layer.num_blocks, layer.window)
        hidden, d = config.hidden_size, config.head_dim
        self.q_proj = Linear(hidden, self.heads * d, dtype, device)
        self.k_proj = Linear(hidden, self.kv_heads * d, dtype, device)
        self.v_proj = Linear(hidden, self.kv_heads * d, dtype, device)
        self.g_proj = Linear(hidden, self.heads * BRANCHES, dtype, device)
        self.o_proj = Linear(self.heads * d, hidden, dtype, device)

    def project(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.q_proj(x), self.k_proj(x), self.v_proj(x), self.g_proj(x)

    def split(
        self, inputs: tuple[torch.Tensor, ...], position: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return q, k, v and gates as `nsa` takes them, q and k turned by their positions.

        inputs: what `project` returned, each [lanes, n, features]. position: int64 [lanes, n].
        """
        lanes, n = position.shape
        d, group = self.head_dim, self.heads // self.kv_heads
        q = inputs[0].reshape(lanes, n, self.kv_heads, group, d).permute(0, 2, 3, 1, 4)
        k = inputs[1].reshape(lanes, n, self.kv_heads, d).transpose(1, 2)
        v = inputs[2].reshape(lanes, n, self.kv_heads, d).transpose(1, 2)
        gates = inputs[3].reshape(lanes, n, self.kv_heads, group, BRANCHES).permute(0, 2, 3, 1, 4)
        q = rope(q, position[:, None, None], self.theta)
        k = rope(k, position[:, None], self.theta)
        return q, k, v, gates.sigmoid()

    def advance(
        self, inputs: tuple[torch.Tensor, ...], state: NSAState, where: Where
    ) -> torch.Tensor:
        lanes, n = inputs[0].shape[:2]
        starts = torch.tensor(where.starts, device=where.relative.device)
        position = starts[:, None] + where.relative
        q, k, v, gates = self.split(inputs, position)
        for lane, (start, filled) in enumerate(zip(where.starts, where.filled, strict=True)):
            first = start + filled
            state.key[lane, :, first : first + n] = k[lane]
            state.value[lane, :, first : first + n] = v[lane]
            self._pool(state, lane, first, first + n)
        mixed = nsa(q, *state, gates, position[:, 0], self.sparsity)
        return mixed.permute(0, 3, 1, 2, 4).reshape(lanes, n, self.heads * self.head_dim)

    def output(self, mixed: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.o_proj(mixed)
        return out

    def roll(self, state: NSAState, start: int, tokens: torch.Tensor) -> None:
        """Nothing to do: rows stay where they were written."""

    def prepare(self, state: NSAState, start: int) -> None:
        self._pool(state, 0, 0, start)

    def _pool(self, state: NSAState, lane: int, first: int, last: int) -> None:
        """Renew the means of the blocks that tokens first .. last - 1 complete."""
        size = self.sparsity.block_size
        # One block at a time, so that a mean's bits do not depend on how many end together.
        for block in range(first // size, last // size):
            rows = slice(block * size, (block + 1) * size)
            state.pooled_key[lane, :, block] = pool_blocks(state.key[lane, :, rows], size)[:, 0]
            state.pooled_value[lane, :, block] = pool_blocks(state.value[lane, :, rows], size)[:, 0]
