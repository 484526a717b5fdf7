"""The short convolution in one pass over the tokens: taps, SiLU and the tail's rows together.

Backwards, `_backward_sums` finds the gradient of the sums under the SiLU and each block's part of
the weight's, and `_backward_inputs` gathers from that the gradient of every input row, those of the
tail among them.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

TOKENS, CHANNELS = 32, 64  # of a program's tile

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def refusal(x: torch.Tensor, weight: torch.Tensor, tail: torch.Tensor) -> str | None:
    """Why these arguments must go elsewhere, or None."""
    if any(given.dtype not in DTYPES for given in (x, weight, tail)):
        return f"it takes float32, bfloat16 and float16, not {x.dtype}"
    return None


def short_conv(
    x: torch.Tensor, weight: torch.Tensor, tail: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    n, kept = x.shape[1], tail.shape[1]
    # clone: a tail outlives its step, and must not hold all of x.
    after = x[:, n - kept :].clone() if n >= kept else torch.cat([tail[:, n:], x], dim=1)
    y: torch.Tensor = _Convolution.apply(x.contiguous(), weight.contiguous(), tail.contiguous())
    return y, after


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, tail: torch.Tensor
    ) -> torch.Tensor:
        batch, n, channels = x.shape
        y = torch.empty_like(x)
        grid = (triton.cdiv(n, TOKENS), triton.cdiv(channels, CHANNELS), batch)
        _forward[grid](
            *(x, weight, tail, y, n, channels),
            KERNEL=weight.shape[1],
            ROWS=TOKENS,
            COLUMNS=CHANNELS,
        )
        ctx.save_for_backward(x, weight, tail)
        return y

    @staticmethod
    def backward(ctx: Any, grad_y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        x, weight, tail = ctx.saved_tensors
        batch, n, channels = x.shape
        kernel = weight.shape[1]
        blocks = triton.cdiv(n, TOKENS)
        columns = triton.cdiv(channels, CHANNELS)
        sums = x.new_empty(x.shape, dtype=torch.float32)
        parts = x.new_empty(batch * blocks, channels, kernel, dtype=torch.float32)
        _backward_sums[(blocks, columns, batch)](
            *(x, weight, tail, grad_y.contiguous(), sums, parts, n, channels),
            KERNEL=kernel,
            ROWS=TOKENS,
            COLUMNS=CHANNELS,
        )
        grad_x, grad_tail = torch.empty_like(x), torch.empty_like(tail)
        _backward_inputs[(triton.cdiv(n + kernel - 1, TOKENS), columns, batch)](
            *(sums, weight, grad_x, grad_tail, n, channels),
            KERNEL=kernel,
            ROWS=TOKENS,
            COLUMNS=CHANNELS,
        )
        return grad_x, parts.sum(dim=0).to(weight.dtype), grad_tail


@triton.jit
def _input(x, tail, batch, at, channel, n, channels, KERNEL: tl.constexpr):
    """Rows `at` of [tail | x], in fp32, zero where there are none."""
    past: tl.constexpr = KERNEL - 1
    there = (channel < channels)[None, :]
    old = tl.load(
        tail + (batch * past + at[:, None]) * channels + channel[None, :],
        mask=there & (at < past)[:, None],
        other=0.0,
    )
    new = tl.load(
        x + (batch * n + at[:, None] - past) * channels + channel[None, :],
        mask=there & ((at >= past) & (at < past + n))[:, None],
        other=0.0,
    )
    return old.to(tl.float32) + new.to(tl.float32)


@triton.jit
def _sums(x, weight, tail, batch, row, channel, n, channels, KERNEL: tl.constexpr):
    """The convolution's sums at rows `row` of x."""
    sums = tl.zeros([row.shape[0], channel.shape[0]], dtype=tl.float32)
    for tap in tl.static_range(KERNEL):
        w = tl.load(weight + channel * KERNEL + tap, mask=channel < channels, other=0.0)
        inputs = _input(x, tail, batch, row + tap, channel, n, channels, KERNEL)
        sums += inputs * w.to(tl.float32)[None, :]
    return sums


@triton.jit
def _forward(
    x,
    weight,
    tail,
    y,
    n,
    channels,
    KERNEL: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    batch = tl.program_id(2).to(tl.int64)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    channel = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    sums = _sums(x, weight, tail, batch, row, channel, n, channels, KERNEL)
    tl.store(
        y + (batch * n + row[:, None]) * channels + channel[None, :],
        (sums * tl.sigmoid(sums)).to(y.dtype.element_ty),
        mask=(row < n)[:, None] & (channel < channels)[None, :],
    )


@triton.jit
def _backward_sums(
    x,
    weight,
    tail,
    grad_y,
    grad_sums,
    parts,
    n,
    channels,
    KERNEL: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    batch = tl.program_id(2).to(tl.int64)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    channel = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    place = (batch * n + row[:, None]) * channels + channel[None, :]
    there = (row < n)[:, None] & (channel < channels)[None, :]
    sums = _sums(x, weight, tail, batch, row, channel, n, channels, KERNEL)
    share = tl.sigmoid(sums)
    d_sums = tl.load(grad_y + place, mask=there, other=0.0).to(tl.float32)
    d_sums *= share * (1.0 + sums * (1.0 - share))
    tl.store(grad_sums + place, d_sums, mask=there)

    part = batch * tl.num_programs(0) + tl.program_id(0)
    for tap in tl.static_range(KERNEL):
        inputs = _input(x, tail, batch, row + tap, channel, n, channels, KERNEL)
        tl.store(
            parts + (part * channels + channel) * KERNEL + tap,
            tl.sum(inputs * d_sums, axis=0),
            mask=channel < channels,
        )


@triton.jit
def _backward_inputs(
    grad_sums,
    weight,
    grad_x,
    grad_tail,
    n,
    channels,
    KERNEL: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    past: tl.constexpr = KERNEL - 1
    batch = tl.program_id(2).to(tl.int64)
    at = tl.program_id(0) * ROWS + tl.arange(0, ROWS)  # rows of [tail | x]
    channel = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    there = (channel < channels)[None, :]
    grad = tl.zeros([ROWS, COLUMNS], dtype=tl.float32)
    for tap in tl.static_range(KERNEL):
        row = at - tap
        w = tl.load(weight + channel * KERNEL + tap, mask=channel < channels, other=0.0)
        d_sums = tl.load(
            grad_sums + (batch * n + row[:, None]) * channels + channel[None, :],
            mask=there & ((row >= 0) & (row < n))[:, None],
            other=0.0,
        )
        grad += d_sums * w.to(tl.float32)[None, :]
    tl.store(
        grad_tail + (batch * past + at[:, None]) * channels + channel[None, :],
        grad.to(grad_tail.dtype.element_ty),
        mask=there & (at < past)[:, None],
    )
    tl.store(
        grad_x + (batch * n + at[:, None] - past) * channels + channel[None, :],
        grad.to(grad_x.dtype.element_ty),
        mask=there & ((at >= past) & (at < past + n))[:, None],
    )
