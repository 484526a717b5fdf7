"""Grouped one-dimensional convolutions over all KV heads at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from lalte_kernels.retention_score.router import Router


def retention_score(
    k: torch.Tensor, v: torch.Tensor, router: Router, first_position: int
) -> torch.Tensor:
    compute = torch.float64 if k.dtype == torch.float64 else torch.float32
    heads = k.shape[0]
    first = first_position
    # Channels are head-major, [k; v] within a head: [1, heads * 2d, rows].
    x = torch.cat([k, v], dim=-1).to(compute).mT.flatten(0, 1).unsqueeze(0)
    x = _clear_padding(x, first)
    for weight, bias in zip(router.conv_weights, router.conv_biases, strict=True):
        x = functional.conv1d(
            x,
            weight.to(compute).squeeze(2),
            bias.to(compute),
            dilation=router.dilation,
            groups=heads,
        )
        first += (weight.shape[3] - 1) * router.dilation // 2
        x = _clear_padding(functional.silu(x), first)
    weight, bias = router.proj_weight.to(compute), router.proj_bias.to(compute)
    per_head = x.view(heads, -1, x.shape[-1])
    logits: torch.Tensor = (weight.view(heads, 1, -1) @ per_head)[:, 0] + bias[:, None]
    return logits


def _clear_padding(x: torch.Tensor, first: int) -> torch.Tensor:
    if first < 0:
        x = x.clone()
        x[..., :-first] = 0
    return x
