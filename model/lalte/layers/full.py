"""Full causal attention. Its buffers hold the whole stream and grow by chunks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from lalte.layers.attention import Attention, column
from lalte.state.tensors import FullState
from lalte_kernels import rope

if TYPE_CHECKING:
    from lalte.layers.mixer import Where


class FullAttention(Attention[FullState]):
    """A token's buffer row is its position."""

    def block_rows(self, starts: list[int]) -> list[int]:
        return starts

    def visible(self, state: FullState, where: Where) -> torch.Tensor:
        device = state.key.device
        own = column(where.starts, device) + where.relative[:, None, :, None]
        return torch.arange(max(where.starts) + self.chunk, device=device) <= own

    def roll(self, state: FullState, start: int, tokens: torch.Tensor) -> None:  # noqa: ARG002
        self.prepare(state, start + self.chunk)

    def prepare(self, state: FullState, start: int) -> None:
        relative = torch.arange(-start, 0, device=state.key.device)
        state.rotated[:, :, :start] = rope(state.key[:, :, :start], relative, self.theta)
