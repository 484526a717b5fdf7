"""All queries of a KV head as rows of one matrix.

Written out, because torch's fused attention takes no key without a value.
"""

from __future__ import annotations

import torch


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
    rows = q.reshape(batch, heads, group * n, d).to(compute)
    scores = (rows @ k.to(compute).mT).view(batch, heads, group, n, keys) * d**-0.5
    hidden = ~visible.expand(batch, heads, n, keys)[:, :, None]
    scores = scores.masked_fill(hidden, float("-inf"))
    logits = torch.cat([scores, null_logit[..., None].to(compute)], dim=-1)
    share = logits.softmax(dim=-1)[..., :keys].reshape(batch, heads, group * n, keys)
    return (share @ v.to(compute)).view(q.shape).to(q.dtype)
