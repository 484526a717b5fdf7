"""Matrix products in fp32 of numbers that are bf16 anyway."""

from __future__ import annotations

import torch


def product_of_bf16(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return a @ b, both rounded to bf16 first. a: [batch, n, k], b: [batch, k, m], fp32.

    The products of bf16 numbers are exact in fp32, so where the inputs are such, this is the fp32
    product, at more than twice the speed on a processor with bf16 units; on others it runs in fp32.
    """
    matmul = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]  # an instance's property
    # The setting is the process's: nothing else may multiply in another thread meanwhile.
    before = matmul.fp32_precision
    matmul.fp32_precision = "bf16"
    try:
        return torch.bmm(a, b)
    finally:
        matmul.fp32_precision = before
