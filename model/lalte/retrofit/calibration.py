"""Where a router's logit is 0: r > 0.5 must mean "worth a slot".

Below the threshold a token is dropped although there is room; above it, tokens compete. So the
threshold matters only until a head's budget is full, and then rank decides. It is put where
ordinary text fills the budget within a given length: short streams keep what is worth it, and
long ones find the buffers full of the best. The length should be large: junk in the buffers draws
attention away from the facts that stand beside it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lalte.retrofit.config import CalibrationConfig
    from lalte.retrofit.harvest import Shard
    from lalte.retrofit.routers import HeadRouters


@torch.no_grad()
def calibrate(
    routers: HeadRouters, ordinary: Iterable[Shard], config: CalibrationConfig
) -> torch.Tensor:
    """Move each head's offset so that the logits of ordinary text exceed 0 at the wanted rate.

    The rate is B / saturation tokens (at most all of them). Returns what was subtracted, [heads].
    """
    scores = torch.cat([routers(shard.k, shard.v) for shard in ordinary], dim=1)
    saturation = [
        config.layers.get(layer, config.saturation_tokens)
        for layer, _ in routers.lte_layers
        for _ in range(routers.kv_heads)
    ]
    rates = routers.budgets() / torch.tensor(saturation)
    ranked = scores.sort(dim=1, descending=True).values
    place = (rates * ranked.shape[1]).long().clamp(max=ranked.shape[1] - 1)
    threshold = ranked.gather(1, place[:, None])[:, 0]
    routers.offset.sub_(threshold)
    return threshold
