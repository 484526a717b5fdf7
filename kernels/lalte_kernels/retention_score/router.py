"""The weights of one layer's router."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch


class Router(NamedTuple):
    """Convolutions with SiLU, then a projection to one logit; each KV head has its own.

    conv_weights: [kv_heads * out, in, 1, kernel] per layer, channels 2d -> d -> d/2 -> d/4, the
    first layer's input being [k; v] of a head. conv_biases: [kv_heads * out] per layer.
    proj_weight: [kv_heads, d/4, 1, 1]. proj_bias: [kv_heads]. dilation: tokens between taps.
    """

    conv_weights: tuple[torch.Tensor, ...]
    conv_biases: tuple[torch.Tensor, ...]
    proj_weight: torch.Tensor
    proj_bias: torch.Tensor
    dilation: int
