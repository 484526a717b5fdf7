"""Matrix products in fp32 of numbers that are bf16 anyway."""

from __future__ import annotations

import torch


def product_of_bf16(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return a @ b for fp32 tensors of bf16 numbers. a: [batch, n, k], b: [batch, k, m].

    The products of bf16 numbers are exact in fp32, so that a processor with bf16 units gives the
    fp32 result at more than twice the speed.
    """
    matmul = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]  # an instance's property
    # The setting is the process's: nothing else may multiply in another thread meanwhile.
    before = matmul.fp32_precision
    matmul.fp32_precision = "bf16"
    try:
        return torch.bmm(a, b)
    finally:
        matmul.fp32_precision = before
