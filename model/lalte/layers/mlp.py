"""SwiGLU (arXiv 2002.05202)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

from lalte.layers.linear import Linear

if TYPE_CHECKING:
    from lalte.config import ModelConfig


class MLP(nn.Module):
    """down(silu(gate(x)) * up(x))."""

    def __init__(self, config: ModelConfig, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        hidden, inner = config.hidden_size, config.intermediate_size
        self.block = config.chunk
        self.gate_proj = Linear(hidden, inner, dtype, device)
        self.up_proj = Linear(hidden, inner, dtype, device)
        self.down_proj = Linear(inner, hidden, dtype, device)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: [rows, hidden] -> [rows, hidden]."""
        # A vectorised silu treats the last few elements of its range apart, so an element's bits
        # would depend on how many rows stand beside it. At one fixed shape they do not.
        gate = torch.cat([functional.silu(rows) for rows in self.gate_proj(x).split(self.block)])
        out: torch.Tensor = self.down_proj(gate * self.up_proj(x))
        return out
