"""Convolutions as matrix products: one of all taps at once, whose results are then shifted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from lalte_kernels.products import product_of_bf16

if TYPE_CHECKING:
    from lalte_kernels.retention_score.router import Router


def retention_score(
    k: torch.Tensor,
    v: torch.Tensor,
    router: Router,
    first_position: int,
    block: int | None = None,
) -> torch.Tensor:
    compute = torch.float64 if k.dtype == torch.float64 else torch.float32
    heads, rows, _ = k.shape
    layers = [
        # [kv_heads, in, kernel * out], and one row of biases a head.
        (
            weight.view(heads, -1, *weight.shape[1::2]).permute(0, 2, 3, 1).flatten(2).to(compute),
            bias.view(heads, 1, -1).to(compute),
        )
        for weight, bias in zip(router.conv_weights, router.conv_biases, strict=True)
    ]
    proj = router.proj_weight.view(heads, 1, -1).to(compute)
    proj_bias = router.proj_bias.view(heads, 1).to(compute)
    # Of bf16 numbers the first layer's products are exact, and it does most of the work.
    exact = k.dtype == router.conv_weights[0].dtype == torch.bfloat16
    kernel, step = router.conv_weights[0].shape[3], router.dilation
    width = (kernel - 1) * step
    margin = width * len(layers)  # reach on both sides
    block = rows - margin if block is None else block

    inputs = torch.cat([k, v], dim=-1).to(compute)
    scores = []
    for start in range(0, rows - margin, block):
        x = inputs[:, start : start + block + margin]
        first = first_position + start
        x = _clear_padding(x, first)
        for number, (weight, bias) in enumerate(layers):
            taps = product_of_bf16(x, weight) if exact and number == 0 else torch.bmm(x, weight)
            n, size = x.shape[1] - width, bias.shape[2]
            y = taps[:, :n, :size] + bias
            for tap in range(1, kernel):
                y = y + taps[:, tap * step : tap * step + n, tap * size : (tap + 1) * size]
            first += width // 2
            x = _clear_padding(functional.silu(y), first)
        scores.append((x * proj).sum(dim=-1) + proj_bias)
    return torch.cat(scores, dim=1)


def _clear_padding(x: torch.Tensor, first: int) -> torch.Tensor:
    if first < 0:
        x = x.clone()
        x[:, :-first] = 0
    return x
