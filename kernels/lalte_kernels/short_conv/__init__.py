"""The causal depthwise convolution before Gated DeltaNet's q, k and v, with its state."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lalte_kernels.dispatch import Op
from lalte_kernels.short_conv import cpu, reference

if TYPE_CHECKING:
    import torch

OP = Op("short_conv", reference.short_conv, cpu.short_conv, gpu=("fla", "triton"))


def short_conv(
    x: torch.Tensor, weight: torch.Tensor, tail: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """SiLU of a causal depthwise convolution, going on from `tail`.

    x: [batch, n, channels]. weight: [channels, kernel], its last tap on the current token.
    tail: [batch, kernel - 1, channels], the inputs just before x (zeros at the stream's start).
    Sums and SiLU are fp32 (fp64 for fp64 inputs). Returns (y like x, tail after x).
    """
    return OP.run(x.device, x, weight, tail)
