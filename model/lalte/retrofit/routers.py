"""The routers of all layers and heads as one batch, for training.

A served router is three grouped convolutions and a projection per layer (`lalte_kernels`). The
same function, for all heads of all layers at once, is a few batched matrix products over each
token's neighbours. Inputs are standardised per channel here, because some channels of a key are a
hundred times as large as others; `export` folds that into the first convolution.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

from lalte.config import ROUTER_LAYERS, LTEConfig

if TYPE_CHECKING:
    from lalte.config import ModelConfig


class HeadRouters(nn.Module):
    """heads = LTE layers x KV heads, layer-major; sizes = 2d, d, d/2, d/4.

    weights[n]: [heads, kernel * sizes[n], sizes[n + 1]], taps oldest first. biases[n]:
    [heads, sizes[n + 1]]. projection: [heads, d/4]; offset: [heads]. mean, std: [heads, 2d].
    taps: of the kernel's, those that are read: without the future, all up to the token's own.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self, config: ModelConfig, generator: torch.Generator, *, future: bool = True
    ) -> None:
        super().__init__()
        self.lte_layers = [
            (index, layer)
            for index, layer in enumerate(config.layers)
            if isinstance(layer, LTEConfig)
        ]
        kinds = {(layer.router_kernel, layer.router_dilation) for _, layer in self.lte_layers}
        if len(kinds) != 1:
            raise ValueError(f"all routers must have one kernel and dilation, not {kinds}")
        self.kernel, self.dilation = kinds.pop()
        self.taps = self.kernel if future else self.kernel // 2 + 1
        self.kv_heads = config.num_kv_heads
        self.heads = len(self.lte_layers) * self.kv_heads
        self.sizes = [2 * config.head_dim // 2**n for n in range(ROUTER_LAYERS + 1)]
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        for fan_in, out in zip(self.sizes, self.sizes[1:], strict=False):
            shape = (self.heads, self.kernel * fan_in, out)
            scale = math.sqrt(2 / shape[1])
            self.weights.append(nn.Parameter(torch.randn(shape, generator=generator) * scale))
            self.biases.append(nn.Parameter(torch.zeros(self.heads, out)))
        shape_out = (self.heads, self.sizes[-1])
        scale = 1 / math.sqrt(self.sizes[-1])
        self.projection = nn.Parameter(torch.randn(shape_out, generator=generator) * scale)
        self.offset = nn.Parameter(torch.zeros(self.heads))
        self.register_buffer("mean", torch.zeros(self.heads, self.sizes[0]))
        self.register_buffer("std", torch.ones(self.heads, self.sizes[0]))

    def budgets(self) -> torch.Tensor:
        """Retained tokens per head, [heads]."""
        budgets = [budget for _, layer in self.lte_layers for budget in layer.budgets]
        return torch.tensor(budgets, dtype=torch.float32)

    def forward(
        self, k: torch.Tensor, v: torch.Tensor, products: torch.dtype = torch.float32
    ) -> torch.Tensor:
        """Score n consecutive tokens; those before the first and behind the last count as zero.

        k, v: [layers, kv_heads, n, d]. products: dtype of the matrix products; bf16 takes a third
        of the time. Returns [heads, n], fp32.
        """
        x = torch.cat([k, v], dim=-1).flatten(0, 1).float()
        x = ((x - self.mean[:, None]) / self.std[:, None]).to(products)
        n, reach = x.shape[1], (self.kernel // 2) * self.dilation
        for weight, bias in zip(self.weights, self.biases, strict=True):
            padded = functional.pad(x, (0, 0, reach, reach))
            x = bias[:, None].to(products).expand(-1, n, -1)
            parts = weight.to(products).chunk(self.kernel, dim=1)[: self.taps]
            for tap, part in enumerate(parts):
                x = torch.baddbmm(x, padded[:, tap * self.dilation :][:, :n], part)
            x = functional.silu(x)
        return torch.einsum("hnc,hc->hn", x.float(), self.projection) + self.offset[:, None]

    @torch.no_grad()
    def export(self, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        """Name the routers as a model does, rounded to `dtype`, standardisation folded in."""
        tensors: dict[str, torch.Tensor] = {}
        for number, (layer, _) in enumerate(self.lte_layers):
            rows = slice(number * self.kv_heads, (number + 1) * self.kv_heads)
            prefix = f"model.layers.{layer}.attn.router.conv_stack"
            for n in range(ROUTER_LAYERS):
                weight, bias = self.weights[n][rows].clone(), self.biases[n][rows]
                weight[:, self.taps * self.sizes[n] :] = 0
                if n == 0:
                    std = self.std[rows].repeat(1, self.kernel)
                    mean = self.mean[rows].repeat(1, self.kernel)
                    weight = (weight / std[..., None]).to(dtype).float()
                    # From the rounded weights: a mean far from 0 would carry their rounding along.
                    bias = bias - (mean[:, None] @ weight)[:, 0]
                taps = weight.unflatten(1, (self.kernel, self.sizes[n]))  # [heads, tap, in, out]
                name = f"{prefix}.convs.{n}"
                tensors[f"{name}.weight"] = taps.permute(0, 3, 2, 1).flatten(0, 1).unsqueeze(2)
                tensors[f"{name}.bias"] = bias.flatten()
            tensors[f"{prefix}.proj.weight"] = self.projection[rows, :, None, None]
            tensors[f"{prefix}.proj.bias"] = self.offset[rows]
        return {name: tensor.to(dtype).contiguous() for name, tensor in tensors.items()}
