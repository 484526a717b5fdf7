"""A linear layer without bias, uninitialised until `lalte.init` or a checkpoint sets it."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

# bf16 products with fewer output features round differently at 8 rows than at 320 (seen at 1, 3
# and 8 features), and then a state would depend on how many rows were computed together.
LEAST_FEATURES = 16


class Linear(nn.Module):
    """y = x W^T. weight: [out_features, in_features]."""

    def __init__(
        self, in_features: int, out_features: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(
            torch.empty(out_features, in_features, dtype=dtype, device=device)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = self.weight.shape[0]
        if features >= LEAST_FEATURES:
            return functional.linear(x, self.weight)
        padded = functional.pad(self.weight, (0, 0, 0, LEAST_FEATURES - features))
        return functional.linear(x, padded)[..., :features]
