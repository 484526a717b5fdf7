"""flash-linear-attention's causal convolution, with SiLU."""

from __future__ import annotations

import torch
from fla.modules.convolution import causal_conv1d
from torch.nn import functional


def refusal(x: torch.Tensor, weight: torch.Tensor, tail: torch.Tensor) -> str | None:
    """Why these arguments must go elsewhere, or None."""
    if any(given.dtype == torch.float64 for given in (x, weight, tail)):
        return "it does not compute in float64"
    return None


def short_conv(
    x: torch.Tensor, weight: torch.Tensor, tail: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    n, kept = x.shape[1], tail.shape[1]
    # Its state has one column more, the oldest, which no output reads.
    state = functional.pad(tail.mT, (1, 0))
    y, _ = causal_conv1d(x, weight, initial_state=state, activation="silu")
    # clone: a tail outlives its step, and must not hold all of x.
    after = x[:, n - kept :].clone() if n >= kept else torch.cat([tail[:, n:], x], dim=1)
    return y, after
