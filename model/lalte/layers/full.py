"""Full causal attention. Its buffers hold the whole stream."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from lalte.layers.attention import Attention
from lalte.state.tensors import FullState
from lalte_kernels import rope, sparse_attention

if TYPE_CHECKING:
    from lalte.layers.mixer import Where


class FullAttention(Attention[FullState]):
    """A token's buffer row is its position."""

    def advance(
        self, inputs: tuple[torch.Tensor, ...], state: FullState, where: Where
    ) -> torch.Tensor:
        n = inputs[0].shape[1]
        position = where.starts[0] + where.relative
        first = where.starts[0] + where.filled[0]
        q, k, v = self.split_heads(inputs)
        state.key[:, :, first : first + n] = rope(k, position[:, None], self.theta)
        state.value[:, :, first : first + n] = v
        # Up to the block's end, so that a whole block is one shape wherever its rows were cut.
        keys = where.starts[0] + self.chunk
        visible = torch.arange(keys, device=position.device) <= position[:, None, :, None]
        mixed = sparse_attention(
            rope(q, position[:, None, None], self.theta),
            state.key[:, :, :keys],
            state.value[:, :, :keys],
            visible,
        )
        return mixed.permute(0, 3, 1, 2, 4).reshape(1, n, -1)

    def roll(self, state: FullState, start: int, tokens: torch.Tensor) -> None:
        """Nothing to do: rows stay where they were written."""

    def prepare(self, state: FullState, start: int) -> None:
        """Nothing to do: there is no scratch."""
