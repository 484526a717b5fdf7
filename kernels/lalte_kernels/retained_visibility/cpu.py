"""A token is alive for as long as fewer than `budget` better ones have been decided: count them."""

from __future__ import annotations

import torch

from lalte_kernels.retained_update.rank import ranks, worth_keeping


def retained_visibility(
    logit: torch.Tensor,
    position: torch.Tensor,
    leaving_logit: torch.Tensor,
    window: int,
    start: int,
    budgets: torch.Tensor,
    sinks: int,
) -> torch.Tensor:
    heads, rows = position.shape
    n = leaving_logit.shape[1]
    device = logit.device
    leaving_position = torch.arange(start - window, start - window + n, device=device)
    all_logit = torch.cat([logit, leaving_logit], dim=1)
    all_position = torch.cat([position, leaving_position.expand(heads, n)], dim=1)
    worth = worth_keeping(all_logit, all_position, sinks)
    rank = ranks(all_logit, all_position, sinks)

    # decided[q, j]: retained tokens are decided before the block, a leaving one before query q.
    query = torch.arange(n, device=device)[:, None]
    leaving = torch.arange(n, device=device)[None, :]
    before = torch.ones(n, rows, dtype=torch.bool, device=device)
    decided = torch.cat([before, leaving < query], dim=1)

    # better[h, i, j]: i is worth keeping and ranks above j. Counts stay exact in fp32.
    better = (rank[:, :, None] < rank[:, None, :]) & worth[:, :, None]
    decided_better = decided.float() @ better.float()
    alive = decided & worth[:, None, :] & (decided_better < budgets[:, None, None])

    window_position = torch.arange(start - window, start, device=device)
    in_window = window_position >= start + query - window
    in_ring = in_window.expand(heads, n, window).clone()
    in_ring[..., :n] |= alive[..., rows:]
    return torch.cat([alive[..., :rows], in_ring & (window_position >= 0)], dim=-1)
