"""Masks as numbers that are added to attention scores."""

from __future__ import annotations

import torch

HIDDEN = -1e30  # below any score, finite from bf16 on: a softmax gives it exactly zero


def bias_of(visible: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Return 0 where `visible` is true and HIDDEN where it is not."""
    # Several times as fast as filling by a mask.
    return (1 - visible.to(dtype)) * HIDDEN
