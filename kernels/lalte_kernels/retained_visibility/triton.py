"""Visible sets by counting: one program for each query and head, as for eviction itself."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from lalte_kernels.blocks import block as tile_side
from lalte_kernels.retained_update.triton import COMPARED, MOST_CANDIDATES, held_once_decided


def refusal(
    logit: torch.Tensor,
    position: torch.Tensor,  # noqa: ARG001 - one signature with the op
    leaving_logit: torch.Tensor,  # noqa: ARG001
    window: int,
    start: int,  # noqa: ARG001
    budgets: torch.Tensor,  # noqa: ARG001
    sinks: int,  # noqa: ARG001
) -> str | None:
    """Why these arguments must go elsewhere, or None."""
    candidates = logit.shape[1] + window
    if candidates > MOST_CANDIDATES:
        return f"{candidates} tokens a head, more than {MOST_CANDIDATES}"
    return None


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
    visible = torch.empty(heads, n, rows + window, dtype=torch.bool, device=logit.device)
    _look[(n, heads)](
        *(logit.contiguous(), position.contiguous(), leaving_logit.contiguous(), budgets, visible),
        *(start - window, sinks, window, rows, n),
        CANDIDATES=tile_side(rows + window),
        COMPARED=COMPARED,
        num_warps=8,
    )
    return visible


@triton.jit
def _look(
    logit,
    position,
    leaving_logit,
    budgets,
    visible,
    first_position,
    sinks,
    window,
    rows,
    n,
    CANDIDATES: tl.constexpr,
    COMPARED: tl.constexpr,
):
    query, head = tl.program_id(0), tl.program_id(1)
    candidate = tl.arange(0, CANDIDATES)  # [retained | window], whose first n tokens are leaving
    held = held_once_decided(
        *(logit, position, leaving_logit, head, candidate, tl.load(budgets + head)),
        *(first_position, sinks, rows, n, query, COMPARED),
    )
    late = candidate - rows
    in_window = (late >= query) & (first_position + late >= 0)
    row = (head.to(tl.int64) * n + query) * (rows + window)
    tl.store(visible + row + candidate, held | in_window, mask=candidate < rows + window)
