"""The gated delta rule in chunks, forwards and backwards.

The chunked form is that of `cpu.py`, cut into kernels by what can run side by side. With G the
running sum of g inside a chunk, D_ij = e^{G_i - G_j} for j <= i, a chunk's rows as matrices, and o
the product of elements:

    (I + L) U = R,   L = b D o (K K^T) below the diagonal,   R = b (V - e^G K S_0)
    O = e^G Q S_0 + P U,   P = D o (Q K^T)
    S_1 = e^{G_last} S_0 + (e^{G_last - G} K)^T U

`invert` computes (I + L)^-1 of all chunks at once; `states` walks through the chunks for U and
the states, for one block of value columns; `outputs` has O of all chunks at once. Backwards,
`backward_outputs` has P^T dO of all chunks at once, and `backward_states` walks from the last
chunk to the first:

    dU = P^T dO + (e^{G_last - G} K) dS_1,   dR = (I + L)^-T dU,   dV = b dR
    dS_0 = e^{G_last} dS_1 + (e^G Q)^T dO - (b e^G K)^T dR

and `backward_inputs` has what is left, of all chunks at once, from dP = dO U^T and dL = -dR U^T.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton

from lalte_kernels.blocks import block
from lalte_kernels.gated_delta_rule.triton import chunk_backward, chunk_forward

COLUMNS = 16  # of values, per program or step


def chunked(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    g: torch.Tensor,
    beta: torch.Tensor,
    state: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """gated_delta_rule with gradients. All contiguous fp32."""
    result: tuple[torch.Tensor, torch.Tensor] = _Chunked.apply(q, k, v, g, beta, state)
    return result


class _Tiles(NamedTuple):
    """rows: tokens of a chunk. keys: columns of keys per step, where not all are needed at once.

    warps: of the kernels that hold the state's rows for all keys.
    """

    rows: int
    keys: int
    warps: int

    @classmethod
    def of(cls, d_k: int) -> _Tiles:
        """Return what registers have room for, by the machine code of sm_80 and sm_90."""
        if d_k <= 64:
            return cls(rows=32, keys=16, warps=4)
        return cls(rows=16, keys=32, warps=4 if d_k <= 128 else 8)


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        g: torch.Tensor,
        beta: torch.Tensor,
        state: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        batch, n, heads, d_k = q.shape
        d_v = v.shape[-1]
        tiles = _Tiles.of(d_k)
        rows, chunks = tiles.rows, triton.cdiv(n, tiles.rows)
        sizes = (chunks, n, heads, d_k, d_v)
        column_blocks = triton.cdiv(d_v, COLUMNS)

        total = g.new_empty(batch * heads, chunks, rows)
        inverse = g.new_empty(batch * heads, chunks, rows, rows)
        chunk_forward.invert[(chunks, batch * heads)](
            *(k, g, beta, total, inverse, chunks, n, heads, d_k),
            BLOCK_K=tiles.keys,
            ROWS=rows,
            num_warps=4,
        )
        corrections, after = torch.empty_like(v), torch.empty_like(state)
        starts = state.new_empty(batch * heads, chunks, d_k, d_v)
        chunk_forward.states[(column_blocks, batch * heads)](
            *(k, v, beta, total, inverse, state, corrections, starts, after, *sizes),
            BLOCK_K=block(d_k),
            BLOCK_V=COLUMNS,
            ROWS=rows,
            num_warps=tiles.warps,
            num_stages=1,
        )
        output = torch.empty_like(v)
        chunk_forward.outputs[(column_blocks, chunks, batch * heads)](
            *(q, k, total, corrections, starts, output, *sizes),
            BLOCK_K=tiles.keys,
            BLOCK_V=COLUMNS,
            ROWS=rows,
            num_warps=4,
            num_stages=1,
        )
        ctx.save_for_backward(q, k, v, beta, total, inverse, corrections, starts)
        return output, after

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, ...]:
        q, k, v, beta, total, inverse, corrections, starts = ctx.saved_tensors
        d_output, d_after = (x.contiguous() for x in gradients)
        batch, n, heads, d_k = q.shape
        d_v = v.shape[-1]
        tiles = _Tiles.of(d_k)
        rows, chunks = tiles.rows, triton.cdiv(n, tiles.rows)
        sizes = (chunks, n, heads, d_k, d_v)
        column_blocks = triton.cdiv(d_v, COLUMNS)

        inside = torch.empty_like(v)
        chunk_backward.backward_outputs[(column_blocks, chunks, batch * heads)](
            *(q, k, total, d_output, inside, *sizes),
            BLOCK_K=tiles.keys,
            BLOCK_V=COLUMNS,
            ROWS=rows,
            num_warps=4,
            num_stages=1,
        )
        grad_v, right = torch.empty_like(v), torch.empty_like(v)
        ends, grad_state = torch.empty_like(starts), torch.empty_like(d_after)
        chunk_backward.backward_states[(column_blocks, batch * heads)](
            *(q, k, beta, total, inverse, d_output, inside, d_after),
            *(grad_v, right, ends, grad_state, *sizes),
            BLOCK_K=block(d_k),
            BLOCK_V=COLUMNS,
            ROWS=rows,
            num_warps=tiles.warps,
            num_stages=1,
        )
        key_blocks = triton.cdiv(d_k, tiles.keys)
        grad_q, grad_k = torch.empty_like(q), torch.empty_like(k)
        # Each block of key columns gives its part of the sums over all of them.
        grad_g, grad_beta = beta.new_empty(2, key_blocks, *beta.shape)
        chunk_backward.backward_inputs[(chunks, key_blocks, batch * heads)](
            *(q, k, v, beta, total, corrections, starts, d_output, right, ends),
            *(grad_q, grad_k, grad_g, grad_beta, beta.numel(), *sizes),
            BLOCK_K=tiles.keys,
            BLOCK_V=COLUMNS,
            ROWS=rows,
            num_warps=4,
            num_stages=1,
        )
        return grad_q, grad_k, grad_v, grad_g.sum(dim=0), grad_beta.sum(dim=0), grad_state
