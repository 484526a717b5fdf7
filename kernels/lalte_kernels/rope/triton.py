"""RoPE in one pass; backwards it is the same turn the other way round.

Angles are multiplied and brought to one turn in fp64, which keeps them exact for any position; sine
and cosine of what is left are fp32.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl

from lalte_kernels.blocks import block

ROWS = 32  # per program

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def refusal(x: torch.Tensor, relative: torch.Tensor, theta: float) -> str | None:  # noqa: ARG001
    """Why these arguments must go elsewhere, or None."""
    if x.dtype not in DTYPES:
        return f"it takes float32, bfloat16 and float16, not {x.dtype}"
    return None


def rope(x: torch.Tensor, relative: torch.Tensor, theta: float) -> torch.Tensor:
    where = relative.expand(x.shape[:-1]).contiguous()
    turned: torch.Tensor = _Turn.apply(x.contiguous(), where, theta)
    return turned


class _Turn(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, where: torch.Tensor, theta: float) -> torch.Tensor:
        ctx.save_for_backward(where)
        ctx.theta = theta
        return _turn(x, where, theta, 1.0)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (where,) = ctx.saved_tensors
        return _turn(grad.contiguous(), where, ctx.theta, -1.0), None, None


def _turn(x: torch.Tensor, where: torch.Tensor, theta: float, direction: float) -> torch.Tensor:
    half = x.shape[-1] // 2
    turned = torch.empty_like(x)
    # Turns per token of each pair, in fp64: powers of theta lose too much in fp32.
    exponent = torch.arange(half, dtype=torch.float64, device=x.device) * (-1 / half)
    turns = torch.pow(theta, exponent) * (direction / (2 * math.pi))
    _rotate[(triton.cdiv(where.numel(), ROWS),)](
        *(x, where, turns, turned, where.numel()), HALF=half, BLOCK=block(half), ROWS=ROWS
    )
    return turned


@triton.jit
def _rotate(
    x,
    where,
    turns,
    turned,
    n,
    HALF: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    pair = tl.arange(0, BLOCK)
    there = (row < n)[:, None] & (pair < HALF)[None, :]
    position = tl.load(where + row, mask=row < n, other=0).to(tl.float64)
    count = position[:, None] * tl.load(turns + pair, mask=pair < HALF, other=0.0)[None, :]
    angle = ((count - tl.floor(count + 0.5)) * 6.283185307179586).to(tl.float32)
    cos, sin = tl.cos(angle), tl.sin(angle)
    first = x + row.to(tl.int64)[:, None] * (2 * HALF) + pair[None, :]
    a = tl.load(first, mask=there, other=0.0).to(tl.float32)
    b = tl.load(first + HALF, mask=there, other=0.0).to(tl.float32)
    to = turned + row.to(tl.int64)[:, None] * (2 * HALF) + pair[None, :]
    tl.store(to, (a * cos - b * sin).to(turned.dtype.element_ty), mask=there)
    tl.store(to + HALF, (b * cos + a * sin).to(turned.dtype.element_ty), mask=there)
