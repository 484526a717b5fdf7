"""The definition: y_t = silu(sum_j w_j x_{t - kernel + 1 + j}), channel by channel."""

from __future__ import annotations

import torch


def short_conv(
    x: torch.Tensor, weight: torch.Tensor, tail: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    compute = torch.float64 if x.dtype == torch.float64 else torch.float32
    kernel = weight.shape[1]
    inputs = torch.cat([tail, x], dim=1)
    y = torch.zeros(x.shape, dtype=compute, device=x.device)
    for t in range(x.shape[1]):
        for j in range(kernel):
            y[:, t] += weight[:, j].to(compute) * inputs[:, t + j].to(compute)
    y = y / (1 + torch.exp(-y))
    return y.to(x.dtype), inputs[:, inputs.shape[1] - (kernel - 1) :].clone()
