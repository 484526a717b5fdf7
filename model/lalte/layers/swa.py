"""Sliding-window attention: query i sees the keys i - window < j <= i."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from lalte.layers.attention import BufferedAttention, column, shift_window
from lalte.state.tensors import SWAState
from lalte_kernels import rope

if TYPE_CHECKING:
    from lalte.config import ModelConfig, SWAConfig
    from lalte.layers.mixer import Where


class SlidingWindowAttention(BufferedAttention[SWAState]):
    """Buffers are [window - 1 older tokens | block]."""

    def __init__(
        self, config: ModelConfig, layer: SWAConfig, dtype: torch.dtype, device: torch.device
    ) -> None:
        super().__init__(config, dtype, device)
        self.past = layer.window - 1

    def block_rows(self, starts: list[int]) -> list[int]:
        return [self.past] * len(starts)

    def visible(self, state: SWAState, where: Where) -> torch.Tensor:
        device = state.key.device
        own = where.relative[:, None, :, None] + self.past  # each query's own row
        row = torch.arange(self.past + self.chunk, device=device)
        in_stream = row >= self.past - column(where.starts, device)
        return (row <= own) & (row >= own - self.past) & in_stream

    def roll(self, state: SWAState, start: int, tokens: torch.Tensor) -> None:  # noqa: ARG002
        shift_window(state.key, 0, self.past, self.chunk)
        shift_window(state.value, 0, self.past, self.chunk)
        self.prepare(state, start + self.chunk)

    def prepare(self, state: SWAState, start: int) -> None:  # noqa: ARG002
        relative = torch.arange(-self.past, 0, device=state.key.device)
        state.rotated[:, :, : self.past] = rope(state.key[:, :, : self.past], relative, self.theta)
