"""The definition, in fp32 (fp64 for fp64 inputs), one query at a time."""

from __future__ import annotations

import torch


def sparse_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    visible: torch.Tensor,
    earlier: torch.Tensor | None = None,
) -> torch.Tensor:
    compute = torch.float64 if q.dtype == torch.float64 else torch.float32
    batch, heads, group, n, d = q.shape
    before = k.shape[2] - visible.shape[-1]
    if earlier is None:
        earlier = torch.ones(before, dtype=torch.bool, device=q.device)
    visible = torch.cat(
        [
            earlier.expand(batch, heads, before)[:, :, None].expand(-1, -1, n, -1),
            visible.expand(batch, heads, n, visible.shape[-1]),
        ],
        dim=-1,
    )
    out = torch.empty(q.shape, dtype=compute, device=q.device)
    for b in range(batch):
        for h in range(heads):
            for i in range(n):
                seen = visible[b, h, i]
                keys, values = k[b, h, seen].to(compute), v[b, h, seen].to(compute)
                for member in range(group):
                    scores = keys @ q[b, h, member, i].to(compute) * d**-0.5
                    out[b, h, member, i] = scores.softmax(dim=0) @ values
    return out.to(q.dtype)
