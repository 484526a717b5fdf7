"""AdamW's parameter groups (arXiv 1711.05101) and the learning rate's course."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import nn

    from lalte.train.config import OptimiserConfig

# Decay rates and time steps of the delta rule: pulling them towards 0 would change what they mean.
_NEVER_DECAYED = ("A_log", "dt_bias")


def make_optimiser(
    parameters: Iterable[tuple[str, nn.Parameter]], config: OptimiserConfig
) -> torch.optim.AdamW:
    """AdamW over named parameters; matrices are decayed, vectors and gates' rates are not."""
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, parameter in parameters:
        matrix = parameter.dim() > 1 and not name.endswith(_NEVER_DECAYED)
        (decayed if matrix else plain).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas)


def learning_rate(config: OptimiserConfig, step: int, steps: int) -> float:
    """The rate of step 0 .. steps - 1: linear warm-up, then a cosine down to `last_share`."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(steps - config.warmup_steps, 1)
    cosine = (1 + math.cos(math.pi * done)) / 2
    return config.learning_rate * (config.last_share + (1 - config.last_share) * cosine)
