"""The definition, in fp32 (fp64 for fp64 inputs), one query at a time."""

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
    visible = visible.expand(batch, heads, n, k.shape[2])
    out = torch.empty(q.shape, dtype=compute, device=q.device)
    for b in range(batch):
        for h in range(heads):
            for i in range(n):
                seen = visible[b, h, i]
                keys, values = k[b, h, seen].to(compute), v[b, h, seen].to(compute)
                for member in range(group):
                    scores = keys @ q[b, h, member, i].to(compute) * d**-0.5
                    null = null_logit[b, h, member, i : i + 1].to(compute)
                    share = torch.cat([scores, null]).softmax(dim=0)
                    out[b, h, member, i] = share[:-1] @ values
    return out.to(q.dtype)
