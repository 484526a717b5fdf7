"""All queries of a KV head as rows of one matrix.

Written out, because torch's fused attention takes no key without a value.
"""

from __future__ import annotations

import torch

from lalte_kernels.masks import bias_of
from lalte_kernels.products import product_of_bf16


def null_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    visible: torch.Tensor,
    null_logit: torch.Tensor,
) -> torch.Tensor:
    compute = torch.float64 if q.dtype == torch.float64 else torch.float32
    batch, heads, group, n, d = q.shape
    keys = k.shape[2]
    rows = (q.to(compute) * d**-0.5).reshape(batch * heads, group * n, d)
    columns = k.to(compute).reshape(batch * heads, keys, d).mT
    exact = q.dtype == k.dtype == torch.bfloat16
    scores = product_of_bf16(rows, columns) if exact else torch.bmm(rows, columns)
    bias = bias_of(visible, compute)[..., None, :, :]
    scores = scores.view(batch, heads, group, n, keys) + bias
    logits = torch.cat([scores, null_logit[..., None].to(compute)], dim=-1)
    share = logits.softmax(dim=-1)[..., :keys].reshape(batch * heads, group * n, keys)
    return torch.bmm(share.to(v.dtype), v.reshape(batch * heads, keys, d)).view(q.shape)
