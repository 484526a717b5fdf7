"""RoPE as complex numbers: pair (x_i, x_{i + d/2}) turns by relative * theta^(-2i/d)."""

from __future__ import annotations

import torch


def rope(x: torch.Tensor, relative: torch.Tensor, theta: float) -> torch.Tensor:
    d = x.shape[-1]
    half = d // 2
    where = relative.expand(x.shape[:-1]).double()
    pairs = torch.complex(x[..., :half].double(), x[..., half:].double())
    turned = torch.empty_like(pairs)
    for i in range(half):
        angle = where * theta ** (-2 * i / d)
        turned[..., i] = pairs[..., i] * torch.polar(torch.ones_like(angle), angle)
    return torch.cat([turned.real, turned.imag], dim=-1).to(x.dtype)
