"""What the frozen model with full attention looks at: the routers' teacher.

The teacher is the base model with every key visible. For each layer it gives k before RoPE and v,
which is what a router reads, and how much attention each token drew from afar, which is what a
router should foresee. Attention maxima are computed for chosen queries only, block by block.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from lalte.retrofit.whole import attending, attention_inputs
from lalte_kernels import rope

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lalte.model import LaLTE

_QUERY_BLOCK = 64


@dataclass(frozen=True)
class LayerView:
    """One layer's view of a stream of n told tokens.

    k (before RoPE), v: [kv_heads, n, head_dim], the model's dtype. asked, general: [kv_heads, n]
    fp32, the largest probability that any query head of the group gave to a token: in `asked` from
    a question or its answer, in `general` from the chosen queries at least `window` tokens on.
    """

    k: torch.Tensor
    v: torch.Tensor
    asked: torch.Tensor
    general: torch.Tensor


@torch.no_grad()
def teach(
    model: LaLTE, tokens: torch.Tensor, told: int, general_queries: torch.Tensor, window: int
) -> Iterator[LayerView]:
    """Run the teacher over tokens (int64 [n]); yield one view for each layer, in order.

    told: the stream's tokens before the questions. general_queries: int64, rising, below `told`.
    Every layer must hold attention's projections, which local GDN layers do.
    """
    position = torch.arange(tokens.shape[0])
    asking = torch.arange(told, tokens.shape[0])
    x: torch.Tensor = model.model.embeddings(tokens)
    for block in model.blocks():
        attn = attending(block)
        q, k, v = (
            y.view(y.shape[0], -1, attn.head_dim).transpose(0, 1)
            for y in attention_inputs(block, block.attn_norm(x))
        )
        turned_q, turned_k = rope(q, position, attn.theta), rope(k, position, attn.theta)
        mixed = functional.scaled_dot_product_attention(
            turned_q[None], turned_k[None], v[None], is_causal=True, enable_gqa=True
        )[0]
        x = block.finish(x, mixed.transpose(0, 1).flatten(1))
        yield LayerView(
            k[:, :told],
            v[:, :told],
            attention_maxima(turned_q, turned_k, asking, 1, told),
            attention_maxima(turned_q, turned_k, general_queries, window, told),
        )


def attention_maxima(
    q: torch.Tensor, k: torch.Tensor, queries: torch.Tensor, distance: int, told: int
) -> torch.Tensor:
    """Largest attention probability that each of the first `told` tokens draws.

    q: [heads, n, d], k: [kv_heads, n, d], after RoPE. queries: int64, positions whose attention
    counts, for keys at least `distance` before them. Returns [kv_heads, told] fp32.
    """
    kv_heads, n, d = k.shape
    maxima = torch.zeros(kv_heads, told)
    grouped = q.view(kv_heads, -1, n, d)
    position = torch.arange(n)
    for first in range(0, queries.numel(), _QUERY_BLOCK):
        chosen = queries[first : first + _QUERY_BLOCK]
        keys = int(chosen.max()) + 1
        scores = grouped[:, :, chosen].flatten(1, 2) @ k[:, :keys].mT
        scores = scores.float().view(kv_heads, -1, chosen.numel(), keys) * d**-0.5
        ahead = position[:keys] > chosen[:, None]
        far = position[:keys] <= chosen[:, None] - distance
        shares = scores.masked_fill(ahead, float("-inf")).softmax(dim=-1)
        drawn = shares.masked_fill(~far, 0).amax(dim=(1, 2))
        seen = min(keys, told)
        maxima[:, :seen] = torch.maximum(maxima[:, :seen], drawn[:, :seen])
    return maxima
