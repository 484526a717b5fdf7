"""What LTE keeps of a token, as tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch


class Retained(NamedTuple):
    """The retained tokens of one layer, per KV head, oldest first.

    key (before RoPE), value: [kv_heads, rows, head_dim]. logit: [kv_heads, rows], fp32 or fp64.
    position: int64, token: int32 [kv_heads, rows]. An unused row has position -1 and zeros; used
    rows come first.
    """

    key: torch.Tensor
    value: torch.Tensor
    logit: torch.Tensor
    position: torch.Tensor
    token: torch.Tensor


class Leaving(NamedTuple):
    """Consecutive tokens that leave the window, all younger than any retained one.

    key, value: [kv_heads, n, head_dim]. logit: [kv_heads, n]. token: int32 [n], shared by heads.
    first_position: of the first; rows at positions below 0 hold no token.
    """

    key: torch.Tensor
    value: torch.Tensor
    logit: torch.Tensor
    token: torch.Tensor
    first_position: int
