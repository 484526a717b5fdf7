"""Attention that may look at nothing, as sparse attention that has met one key already."""

from __future__ import annotations

import torch

from lalte_kernels.sparse_attention.triton import refused_rows
from lalte_kernels.sparse_attention.triton.masked import Mask, attend


def refusal(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    visible: torch.Tensor,  # noqa: ARG001 - one signature with the op
    null_logit: torch.Tensor,  # noqa: ARG001
) -> str | None:
    """Why these arguments must go elsewhere, or None."""
    return refused_rows(q, k, v)


def null_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    visible: torch.Tensor,
    null_logit: torch.Tensor,
) -> torch.Tensor:
    batch, heads, group, n, d = q.shape
    rows = q.reshape(batch, heads, group * n, d)
    mask = Mask.of(visible, None, (batch, heads, n, k.shape[2]))
    nulls = null_logit.reshape(batch, heads, group * n)
    return attend(rows, k, v, mask, nulls).view(q.shape)
