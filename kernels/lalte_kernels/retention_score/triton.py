"""The router's layers, each in one pass: taps, bias, SiLU and the stream's zero padding together.

The projection to a logit is a layer of one tap without the last two. Rows that are scored together
stand in a piece of their own, with the neighbours that they read; all pieces have one shape.
Backwards the inputs' gradient is the same pass over the sums' gradient with the taps turned round;
the weights' is one product of matrices a tap, which is torch's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch.nn import functional

from lalte_kernels.blocks import block as tile_side

if TYPE_CHECKING:
    from lalte_kernels.retention_score.router import Router

ROWS, COLUMNS, CHANNELS = 32, 64, 32  # of a program's tile, and of the inputs taken at a time

DTYPES = (torch.float32, torch.bfloat16, torch.float16)

# Products of fp32 in three TF32 steps: on tensor cores, with errors near those of fp32.
PRECISION = tl.constexpr("tf32x3")


def refusal(
    k: torch.Tensor,
    v: torch.Tensor,
    router: Router,
    first_position: int,  # noqa: ARG001 - one signature with the op
    block: int | None = None,  # noqa: ARG001
) -> str | None:
    """Why these arguments must go elsewhere, or None."""
    for given in (k, v, *router.conv_weights):
        if given.dtype not in DTYPES:
            return f"it takes float32, bfloat16 and float16, not {given.dtype}"
    return None


def retention_score(
    k: torch.Tensor,
    v: torch.Tensor,
    router: Router,
    first_position: int,
    block: int | None = None,
) -> torch.Tensor:
    heads, rows, _ = k.shape
    margin = sum((weight.shape[3] - 1) * router.dilation for weight in router.conv_weights)
    n = rows - margin
    block = n if block is None else block
    pieces = _Pieces(triton.cdiv(n, block), block, first_position)
    x = torch.cat([k, v], dim=-1).float()
    if first_position < 0:
        x[:, :-first_position] = 0
    x = functional.pad(x, (0, 0, 0, pieces.number * block - n)).unfold(1, block + margin, block)
    x = x.mT.flatten(0, 1).contiguous()
    for weight, bias in zip(router.conv_weights, router.conv_biases, strict=True):
        reach = (weight.shape[3] - 1) * router.dilation // 2
        pieces = pieces._replace(first=pieces.first + reach)
        x = _Layer.apply(x, weight.contiguous(), bias.contiguous(), pieces, router.dilation, True)
    projection = router.proj_weight.contiguous(), router.proj_bias.contiguous()
    logit: torch.Tensor = _Layer.apply(x, *projection, pieces, router.dilation, False)
    return logit.view(heads, -1)[:, :n]


class _Pieces(NamedTuple):
    """A head's rows in `number` pieces that start `block` apart, the first row at `first`."""

    number: int
    block: int
    first: int

    def padding(self, n: int, device: torch.device) -> torch.Tensor:
        """Say which of n rows lie before the stream: bool [number, n, 1]."""
        start = torch.arange(self.number, device=device)[:, None] * self.block + self.first
        return (start + torch.arange(n, device=device) < 0)[..., None]


class _Layer(torch.autograd.Function):
    """x: fp32 [kv_heads * pieces, rows, in] -> [kv_heads * pieces, n, out].

    n = rows - (kernel - 1) * step. pieces: where the rows that come out lie. hidden: whether SiLU
    and zero padding follow.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
        pieces: _Pieces,
        step: int,
        hidden: bool,
    ) -> torch.Tensor:
        many, rows, into = x.shape
        out, kernel = weight.shape[0] * pieces.number // many, weight.shape[3]
        n = rows - (kernel - 1) * step
        y = x.new_empty(many, n, out)
        sums = torch.empty_like(y) if hidden and any(ctx.needs_input_grad) else None
        columns = min(COLUMNS, tile_side(out))
        convolve[(many, triton.cdiv(n, ROWS), triton.cdiv(out, columns))](
            *(x, weight, bias, sums, y, *pieces, step, rows, n, into, out),
            *(out * into * kernel, kernel, into * kernel),
            KERNEL=kernel,
            SILU=hidden,
            BACK=False,
            ROWS=ROWS,
            COLUMNS=columns,
            CHANNELS=CHANNELS,
        )
        ctx.save_for_backward(x, weight, sums)
        ctx.pieces, ctx.step, ctx.hidden, ctx.bias = pieces, step, hidden, bias.dtype
        return y

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, sums = ctx.saved_tensors
        pieces = ctx.pieces
        many, rows, into = x.shape
        n, out = grad.shape[1:]
        kernel = weight.shape[3]
        d_sums = grad.contiguous()
        if ctx.hidden:
            share = sums.sigmoid()
            d_sums = d_sums * share * (1 + sums * (1 - share))
            padding = pieces.padding(n, x.device)
            d_sums = d_sums.unflatten(0, (-1, pieces.number)).masked_fill(padding, 0).flatten(0, 1)
        grad_x = torch.empty_like(x)
        columns = min(COLUMNS, tile_side(into))
        convolve[(many, triton.cdiv(rows, ROWS), triton.cdiv(into, columns))](
            *(d_sums, weight, None, None, grad_x, *pieces, ctx.step, n, rows, out, into),
            *(out * into * kernel, into * kernel, kernel),
            KERNEL=kernel,
            SILU=False,
            BACK=True,
            ROWS=ROWS,
            COLUMNS=columns,
            CHANNELS=CHANNELS,
        )
        taps = [x[:, tap * ctx.step : tap * ctx.step + n] for tap in range(kernel)]
        grad_weight = torch.stack([d_sums.mT @ tap for tap in taps], dim=-1)
        grad_weight = grad_weight.unflatten(0, (-1, pieces.number)).sum(dim=1)
        grad_bias = d_sums.sum(dim=1).unflatten(0, (-1, pieces.number)).sum(dim=1)
        return (
            grad_x,
            grad_weight.reshape(weight.shape).to(weight.dtype),
            grad_bias.flatten().to(ctx.bias),
            *(None, None, None),
        )


@triton.jit
def convolve(
    x,
    weight,
    bias,
    sums,
    y,
    pieces,
    block,
    first,
    step,
    rows,
    n,
    into,
    out,
    weight_head,
    weight_in,
    weight_out,
    KERNEL: tl.constexpr,
    SILU: tl.constexpr,
    BACK: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """y[r] = bias + the sum over taps of x[r + tap * step] weight[tap].

    SILU: the silu of that, and zero at positions below 0. BACK: without a bias, r - tap * step.
    """
    piece = tl.program_id(0).to(tl.int64)
    head = piece // pieces
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)
    there = (row < n)[:, None] & (column < out)[None, :]
    x += piece * rows * into
    weight += head * weight_head
    total = tl.zeros([ROWS, COLUMNS], dtype=tl.float32)
    for tap in tl.static_range(KERNEL):
        at = row - tap * step if BACK else row + tap * step
        for start in range(0, into, CHANNELS):
            channel = start + tl.arange(0, CHANNELS)
            tile_x = tl.load(
                x + at.to(tl.int64)[:, None] * into + channel[None, :],
                mask=((at >= 0) & (at < rows))[:, None] & (channel < into)[None, :],
                other=0.0,
            )
            tile_w = tl.load(
                weight + channel[:, None] * weight_in + column[None, :] * weight_out + tap,
                mask=(channel < into)[:, None] & (column < out)[None, :],
                other=0.0,
            )
            total += tl.dot(tile_x, tile_w.to(tl.float32), input_precision=PRECISION)
    place = (piece * n + row)[:, None] * out + column[None, :]
    if not BACK:
        total += tl.load(bias + head * out + column, mask=column < out, other=0.0)[None, :]
    if sums is not None:
        tl.store(sums + place, total, mask=there)
    if SILU:
        position = first + piece % pieces * block + row
        total = tl.where((position >= 0)[:, None], total * tl.sigmoid(total), 0.0)
    tl.store(y + place, total, mask=there)
