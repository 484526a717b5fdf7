"""Rotary position embedding, and the rule that bounds the positions of retained keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lalte_kernels.dispatch import Op
from lalte_kernels.rope import cpu, reference
from lalte_kernels.rope.positions import bounded_positions

if TYPE_CHECKING:
    import torch

__all__ = ["bounded_positions", "rope"]

OP = Op("rope", reference.rope, cpu.rope, gpu=("triton",))


def rope(x: torch.Tensor, relative: torch.Tensor, theta: float) -> torch.Tensor:
    """Turn each row of `x` by its position (RoFormer, arXiv 2104.09864; halves, as in Llama).

    x: [..., rows, d]. relative: int64, broadcastable to [..., rows]; positions relative to the
    start of the current block, so that angles stay small and exact on streams of any length.
    Angles are computed in fp64. Returns x's shape and dtype.
    """
    return OP.run(x.device, x, relative, theta)
