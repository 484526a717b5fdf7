"""All heads and tokens at once: sort the candidates, keep the best, put them back in age order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from lalte_kernels.retained_update.buffer import Retained
from lalte_kernels.retained_update.rank import ranks, worth_keeping

if TYPE_CHECKING:
    from lalte_kernels.retained_update.buffer import Leaving


def retained_update(
    kept: Retained, leaving: Leaving, budgets: torch.Tensor, sinks: int
) -> Retained:
    heads, rows = kept.position.shape
    n = leaving.key.shape[1]
    position = torch.arange(n, dtype=torch.int64, device=kept.key.device) + leaving.first_position
    candidates = Retained(
        torch.cat([kept.key, leaving.key], dim=1),
        torch.cat([kept.value, leaving.value], dim=1),
        torch.cat([kept.logit, leaving.logit], dim=1),
        torch.cat([kept.position, position.expand(heads, n)], dim=1),
        torch.cat([kept.token, leaving.token.expand(heads, n)], dim=1),
    )
    stays = worth_keeping(candidates.logit, candidates.position, sinks)
    stays &= ranks(candidates.logit, candidates.position, sinks) < budgets[:, None]

    # Survivors first, and a stable sort leaves them in age order.
    chosen = stays.sort(dim=-1, descending=True, stable=True).indices[:, :rows]
    used = stays.gather(1, chosen)

    def take(x: torch.Tensor) -> torch.Tensor:
        return x.gather(1, chosen).masked_fill(~used, 0)

    def take_rows(x: torch.Tensor) -> torch.Tensor:
        index = chosen[..., None].expand(-1, -1, x.shape[-1])
        return x.gather(1, index).masked_fill(~used[..., None], 0)

    return Retained(
        take_rows(candidates.key),
        take_rows(candidates.value),
        take(candidates.logit),
        candidates.position.gather(1, chosen).masked_fill(~used, -1),
        take(candidates.token),
    )
