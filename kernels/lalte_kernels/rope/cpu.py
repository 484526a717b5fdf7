"""RoPE on CPUs: angles in fp64, the turn in fp32 (fp64 for fp64 inputs)."""

from __future__ import annotations

import torch


def rope(x: torch.Tensor, relative: torch.Tensor, theta: float) -> torch.Tensor:
    d = x.shape[-1]
    half = d // 2
    compute = torch.float64 if x.dtype == torch.float64 else torch.float32
    exponent = torch.arange(half, dtype=torch.float64, device=x.device) * (-2 / d)
    angle = relative.double().unsqueeze(-1) * torch.pow(theta, exponent)
    cos, sin = angle.cos().to(compute), angle.sin().to(compute)
    first, second = x[..., :half].to(compute), x[..., half:].to(compute)
    turned = torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
    return turned.to(x.dtype)
