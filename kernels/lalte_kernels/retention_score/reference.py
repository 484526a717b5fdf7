"""The definition: head by head, layer by layer, position by position."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from lalte_kernels.retention_score.router import Router


def retention_score(
    k: torch.Tensor,
    v: torch.Tensor,
    router: Router,
    first_position: int,
    block: int | None = None,  # noqa: ARG001 - which rows are computed together means nothing
) -> torch.Tensor:
    compute = torch.float64 if k.dtype == torch.float64 else torch.float32
    heads = k.shape[0]
    logits = []
    for head in range(heads):
        first = first_position
        x = torch.cat([k[head], v[head]], dim=-1).to(compute)
        x = _clear_padding(x, first)
        for weights, biases in zip(router.conv_weights, router.conv_biases, strict=True):
            weight = weights.chunk(heads)[head].to(compute)[:, :, 0, :]
            bias = biases.chunk(heads)[head].to(compute)
            width = (weight.shape[2] - 1) * router.dilation
            rows = []
            for centre in range(x.shape[0] - width):
                taps = x[centre : centre + width + 1 : router.dilation]
                y = bias + torch.einsum("oik,ki->o", weight, taps)
                rows.append(y / (1 + torch.exp(-y)))
            first += width // 2
            x = _clear_padding(torch.stack(rows), first)
        projection = router.proj_weight[head, :, 0, 0].to(compute)
        logits.append(x @ projection + router.proj_bias[head].to(compute))
    return torch.stack(logits)


def _clear_padding(x: torch.Tensor, first: int) -> torch.Tensor:
    position = torch.arange(first, first + x.shape[0], device=x.device)
    return torch.where(position[:, None] >= 0, x, torch.zeros_like(x))
