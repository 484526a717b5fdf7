"""RoPE on CPUs: cosines and sines looked up in a table, the turn in fp32 (fp64 for fp64 inputs)."""

from __future__ import annotations

from functools import cache

import torch

# Relative positions that are looked up: blocks, windows and bounded positions are well within.
NEAREST, FARTHEST = 1024, -8192


def rope(x: torch.Tensor, relative: torch.Tensor, theta: float) -> torch.Tensor:
    d = x.shape[-1]
    compute = torch.float64 if x.dtype == torch.float64 else torch.float32
    cos, sin = _angles(relative, theta, d, compute)
    wide = x.to(compute)
    # Products and sums of two numbers have one right rounding, so a row's bits do not depend on
    # the rows beside it.
    turned = wide * cos
    turned += wide.roll(d // 2, dims=-1) * sin
    return turned.to(x.dtype)


def _angles(
    relative: torch.Tensor, theta: float, d: int, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return cosines and signed sines, each [*relative's shape, d]."""
    low, high = relative.aminmax() if relative.numel() else (relative.new_zeros(()),) * 2
    if int(low) < FARTHEST or int(high) >= NEAREST:
        return _compute(relative, theta, d, dtype)
    row = relative.flatten() - FARTHEST
    cos, sin = _table(theta, d, dtype, relative.device)
    shape = (*relative.shape, d)
    return cos.index_select(0, row).view(shape), sin.index_select(0, row).view(shape)


@cache
def _table(
    theta: float, d: int, dtype: torch.dtype, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    # Outside inference mode, or no later caller could train through what is kept here.
    with torch.inference_mode(False):
        return _compute(torch.arange(FARTHEST, NEAREST, device=device), theta, d, dtype)


def _compute(
    relative: torch.Tensor, theta: float, d: int, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    exponent = torch.arange(d // 2, dtype=torch.float64, device=relative.device) * (-2 / d)
    angle = relative.double().unsqueeze(-1) * torch.pow(theta, exponent)
    cos, sin = angle.cos(), angle.sin()
    # [first, second] turns to [first cos - second sin, second cos + first sin].
    return torch.cat([cos, cos], dim=-1).to(dtype), torch.cat([-sin, sin], dim=-1).to(dtype)
