"""The L1 penalty on retention scores, and the controller that brings each head to its budget.

In training a head may keep as many tokens as it likes; a kept token costs lambda * (r - 0.5), and
lambda rises while the head keeps more than its budget (arXiv 2510.20787, section on training; the
constants are the published code's). kept: a moving average of how many of a sequence's scored
tokens have r > 0.5, and not what the buffer holds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from lalte.config import LTEConfig
from lalte.train.errors import TrainError

if TYPE_CHECKING:
    from lalte.config import ModelConfig
    from lalte.train.config import PenaltyConfig


def scored(model_config: ModelConfig, length: int) -> int:
    """How many tokens of a sequence have all that their score reads (paper: all but the last 6).

    Only these cost and count. Raises TrainError where there is none.
    """
    reach = max((x.reach for x in model_config.layers if isinstance(x, LTEConfig)), default=0)
    if length <= reach:
        raise TrainError(
            "length", f"{length} tokens are fewer than one score reads: at least {reach + 1}"
        )
    return length - reach


class PenaltyController:
    """Strength of the penalty per LTE layer and KV head.

    strength (lambda) and kept: fp32 [LTE layers, KV heads]. Both are all that a run must save.
    """

    def __init__(
        self, model_config: ModelConfig, config: PenaltyConfig, length: int, device: torch.device
    ) -> None:
        layers = [layer for layer in model_config.layers if isinstance(layer, LTEConfig)]
        shape = (len(layers), model_config.num_kv_heads)
        self._config = config
        self._scored = scored(model_config, length)
        self._budget = torch.tensor(
            [layer.budgets for layer in layers], dtype=torch.float32, device=device
        ).reshape(shape)
        self.strength = torch.zeros(shape, device=device)
        # Routers begin by keeping everything.
        self.kept = torch.full(shape, float(length), device=device)

    def observe(self, share: torch.Tensor, step: int) -> None:
        """Take in one step's share of scored tokens kept [layers, heads]; `step` counts from 1.

        Every `update_steps` steps the strengths change: times `raise_factor` where more than the
        budget is kept, over `lower_factor` where less than `tolerance` of it.
        """
        config = self._config
        weight = 2 / (1 + config.update_steps // 2)
        self.kept += weight * (share * self._scored - self.kept)
        if step % config.update_steps:
            return
        many = self.kept > config.tolerance * self._budget
        few = self.kept < self._budget
        if step == config.update_steps:
            self.strength = torch.where(many, config.floor, 0.0)
            return
        factor = torch.ones_like(self.strength)
        # Between the two bounds a head is where it should be, and its strength stays.
        factor[many & ~few] = config.raise_factor
        factor[few & ~many] = 1 / config.lower_factor
        raised = (self.strength * factor).clamp(max=config.ceiling)
        raised = torch.where(raised < config.floor, 0.0, raised)
        self.strength = torch.where((raised == 0) & many, config.floor, raised)
