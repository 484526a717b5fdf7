"""The recurrence itself, token by token, with a block of the state's columns in registers."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from lalte_kernels.blocks import block

COLUMNS = 16  # of values, per program


def recurrent(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    g: torch.Tensor,
    beta: torch.Tensor,
    state: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """gated_delta_rule without gradients. All contiguous fp32."""
    batch, n, heads, d_k = q.shape
    d_v = v.shape[-1]
    output, after = torch.empty_like(v), torch.empty_like(state)
    _recur[(triton.cdiv(d_v, COLUMNS), batch * heads)](
        *(q, k, v, g, beta, state, output, after),
        *(n, heads, d_k, d_v),
        BLOCK_K=block(d_k),
        BLOCK_V=COLUMNS,
        num_warps=4,
    )
    return output, after


@triton.jit
def _recur(
    q,
    k,
    v,
    g,
    beta,
    state,
    output,
    after,
    n,
    heads,
    d_k,
    d_v,
    BLOCK_K: tl.constexpr,
    BLOCK_V: tl.constexpr,
):
    head = tl.program_id(1)
    key = tl.arange(0, BLOCK_K)
    value = tl.program_id(0) * BLOCK_V + tl.arange(0, BLOCK_V)
    in_key, in_value = key < d_k, value < d_v
    at_state = (head.to(tl.int64) * d_k + key[:, None]) * d_v + value[None, :]
    in_state = in_key[:, None] & in_value[None, :]
    s = tl.load(state + at_state, mask=in_state, other=0.0)
    row = (head // heads).to(tl.int64) * n * heads + head % heads  # of [batch, n, heads]
    for _ in range(n):
        row_q = tl.load(q + row * d_k + key, mask=in_key, other=0.0)
        row_k = tl.load(k + row * d_k + key, mask=in_key, other=0.0)
        row_v = tl.load(v + row * d_v + value, mask=in_value, other=0.0)
        s *= tl.exp(tl.load(g + row))
        correction = tl.load(beta + row) * (row_v - tl.sum(s * row_k[:, None], axis=0))
        s += row_k[:, None] * correction[None, :]
        tl.store(output + row * d_v + value, tl.sum(s * row_q[:, None], axis=0), mask=in_value)
        row += heads
    tl.store(after + at_state, s, mask=in_state)
