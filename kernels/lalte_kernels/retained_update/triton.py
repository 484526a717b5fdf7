"""Online eviction by counting: one program for each head and block, without any order among them.

A token is held after a block if it is worth keeping, decided by then, and fewer than `budget`
better ones are decided by then.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from lalte_kernels.blocks import block as tile_side

MOST_CANDIDATES = 4096  # of a head: a program holds them all
COMPARED = 16  # candidates with which all are compared at a time


def refusal(
    logit: torch.Tensor,
    position: torch.Tensor,  # noqa: ARG001 - one signature with the op
    leaving_logit: torch.Tensor,
    first_position: int,  # noqa: ARG001
    budgets: torch.Tensor,  # noqa: ARG001
    sinks: int,  # noqa: ARG001
    block: int,  # noqa: ARG001
) -> str | None:
    """Why these arguments must go elsewhere, or None."""
    candidates = logit.shape[1] + leaving_logit.shape[1]
    if candidates > MOST_CANDIDATES:
        return f"{candidates} candidates a head, more than {MOST_CANDIDATES}"
    return None


def retained_update(
    logit: torch.Tensor,
    position: torch.Tensor,
    leaving_logit: torch.Tensor,
    first_position: int,
    budgets: torch.Tensor,
    sinks: int,
    block: int,
) -> torch.Tensor:
    heads, rows = position.shape
    n = leaving_logit.shape[1]
    held = torch.zeros(n // block, heads, rows, dtype=torch.int64, device=logit.device)
    _decide[(n // block, heads)](
        *(logit.contiguous(), position.contiguous(), leaving_logit.contiguous(), budgets, held),
        *(first_position, sinks, block, rows, n),
        CANDIDATES=tile_side(rows + n),
        COMPARED=COMPARED,
        num_warps=8,
    )
    return held


@triton.jit
def _score(
    logit, position, leaving_logit, head, candidate, first_position, sinks, rows, n, decided
):
    """Rank as a number, and worth; among equal numbers the older candidate is the better one."""
    late = candidate - rows  # place among the leaving
    retained, leaving = late < 0, (late >= 0) & (late < decided)
    where = tl.load(position + head * rows + candidate, mask=retained, other=-1)
    where = tl.where(leaving, first_position + late, where)
    # Each candidate is in one of the two, and reads 0 from the other.
    score = tl.load(logit + head * rows + candidate, mask=retained, other=0.0)
    score += tl.load(leaving_logit + head * n + late, mask=leaving, other=0.0)
    score = tl.where(where < sinks, float("inf"), score)
    worth = (where >= 0) & (score > 0)
    return score, worth


@triton.jit
def held_once_decided(
    logit,
    position,
    leaving_logit,
    head,
    candidate,
    budget,
    first_position,
    sinks,
    rows,
    n,
    decided,
    COMPARED: tl.constexpr,
):
    """Which candidates are held once the first `decided` of the leaving are."""
    score, worth = _score(
        *(logit, position, leaving_logit, head, candidate),
        *(first_position, sinks, rows, n, decided),
    )
    above = tl.zeros([candidate.shape[0]], dtype=tl.int32)
    for first in range(0, rows + decided, COMPARED):
        other = first + tl.arange(0, COMPARED)
        other_score, other_worth = _score(
            *(logit, position, leaving_logit, head, other),
            *(first_position, sinks, rows, n, decided),
        )
        older = other[:, None] < candidate[None, :]
        better = other_score[:, None] > score[None, :]
        better |= (other_score[:, None] == score[None, :]) & older
        above += tl.sum((better & other_worth[:, None]).to(tl.int32), axis=0)
    return worth & (above < budget)


@triton.jit
def _decide(
    logit,
    position,
    leaving_logit,
    budgets,
    held,
    first_position,
    sinks,
    block,
    rows,
    n,
    CANDIDATES: tl.constexpr,
    COMPARED: tl.constexpr,
):
    step, head = tl.program_id(0), tl.program_id(1)
    candidate = tl.arange(0, CANDIDATES)
    stays = held_once_decided(
        *(logit, position, leaving_logit, head, candidate, tl.load(budgets + head)),
        *(first_position, sinks, rows, n, (step + 1) * block, COMPARED),
    )
    place = tl.cumsum(stays.to(tl.int32), axis=0) - 1
    row = (step * tl.num_programs(1) + head) * rows
    tl.store(held + row + place, candidate.to(tl.int64) + 1, mask=stays)
