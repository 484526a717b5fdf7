"""Whether facts would survive long streams, measured without running one.

The scores of ordinary tokens give the threshold that N of them set for B slots: their quantile
1 - B/N. A fact's token survives in a head if its score is above. This foresees the online rule, for
which the same threshold rises as the stream goes on; what counts in the end is `evaluation`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from lalte.retrofit.data import NO_FACT

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from lalte.retrofit.harvest import Shard
    from lalte.retrofit.routers import HeadRouters

_RETRIEVAL_HEADS = 16


@dataclass(frozen=True)
class Survival:
    """At one length of stream, shares between 0 and 1.

    wanted: of the attention that value tokens draw when asked for, the part in heads where they
    survive. values: of the values, those that the heads with the most such attention keep whole.
    """

    tokens: int
    wanted: float
    values: float


@torch.no_grad()
def survival(
    routers: HeadRouters, shards: Iterable[Shard], lengths: Sequence[int]
) -> list[Survival]:
    """Measure the routers on shards that they were not fitted on."""
    scores, wanted, ordinary = [], [], []
    values: list[torch.Tensor] = []
    for shard in shards:
        score = routers(shard.k, shard.v)
        rows = shard.value & (shard.fact != NO_FACT)
        scores.append(score[:, rows])
        wanted.append(shard.asked.flatten(0, 1)[:, rows])
        ordinary.append(score[:, shard.fact == NO_FACT])
        first = values[-1].max() + 1 if values else 0
        values.append(first + shard.fact[rows].long())
    score, want, value = torch.cat(scores, 1), torch.cat(wanted, 1), torch.cat(values)
    floor = torch.cat(ordinary, 1).sort(dim=1, descending=True).values
    retrieving = want.mean(dim=1).topk(min(_RETRIEVAL_HEADS, len(want))).indices
    results = []
    for tokens in lengths:
        share = (routers.budgets() / tokens).clamp_max(1)
        place = (share * floor.shape[1]).long().clamp_max(floor.shape[1] - 1)
        alive = score > floor.gather(1, place[:, None])
        lost = torch.zeros(len(retrieving), int(value.max()) + 1)
        lost.index_add_(1, value, (~alive[retrieving]).float())
        whole = (lost == 0)[:, torch.unique(value)]
        results.append(
            Survival(
                tokens,
                float((want * alive).sum() / want.sum()),
                float(whole.float().mean()),
            )
        )
    return results
