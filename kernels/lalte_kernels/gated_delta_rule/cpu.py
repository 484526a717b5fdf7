"""The gated delta rule in chunks (WY form), and one step of it for decoding.

Within a chunk the corrections u_i that the tokens write depend on each other linearly:

    u_i = b_i (v_i - e^{G_i} S_0^T k_i - sum_{m<i} e^{G_i - G_m} (k_i . k_m) u_m)

with G the running sum of g. That is a unit lower triangular system (I + L) U = R, solved at once.
"""

from __future__ import annotations

import torch

CHUNK = 64  # tokens per triangular system: larger ones cost more than they save


def gated_delta_rule(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    g: torch.Tensor,
    beta: torch.Tensor,
    state: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    n = q.shape[1]
    if n == 1:
        return _step(q, k, v, g, beta, state)
    outputs = []
    whole = n - n % CHUNK
    for rows, size in ((slice(0, whole), CHUNK), (slice(whole, n), n - whole)):
        if rows.start == rows.stop:
            continue
        # [batch, chunks, heads, size, ...]: one matrix per chunk and head.
        parts = [
            x[:, rows].reshape(x.shape[0], -1, size, *x.shape[2:]).transpose(2, 3)
            for x in (q, k, v, g, beta)
        ]
        output, state = _chunks(parts[0], parts[1], parts[2], parts[3], parts[4], state)
        outputs.append(output.transpose(2, 3).flatten(1, 2))
    return torch.cat(outputs, dim=1), state


def _chunks(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    g: torch.Tensor,
    beta: torch.Tensor,
    state: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    n = q.shape[3]
    total = g.cumsum(dim=-1)  # G
    # Gaps above the diagonal are positive and could overflow; they are cut off, then cleared.
    decay = (total[..., :, None] - total[..., None, :]).clamp(max=0).exp().tril()
    since_start = total.exp()[..., None]
    beta = beta[..., None]

    # q and k meet the same matrices: one product of twice the rows each.
    rows = torch.cat([q, k], dim=3)
    q_keys, k_keys = (rows @ k.mT).tensor_split([n], dim=3)
    q_keys, lower = q_keys * decay, k_keys * decay * beta
    k_to_end = (k * decay[..., -1, :, None]).mT
    outputs = []
    for i in range(q.shape[1]):  # only this depends on the chunks before
        q_state, k_state = (rows[:, i] @ state).tensor_split([n], dim=2)
        right = beta[:, i] * (v[:, i] - since_start[:, i] * k_state)
        # The solver reads below the diagonal only.
        u = torch.linalg.solve_triangular(lower[:, i], right, upper=False, unitriangular=True)
        outputs.append(since_start[:, i] * q_state + q_keys[:, i] @ u)
        state = since_start[:, i, :, -1:] * state + k_to_end[:, i] @ u
    return torch.stack(outputs, dim=1), state


def _step(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    g: torch.Tensor,
    beta: torch.Tensor,
    state: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    # One token: [batch, heads, 1, d] rows against [batch, heads, d_k, d_v].
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    state = state * g[:, 0, :, None, None].exp()
    correction = beta[:, 0, :, None, None] * (v - k @ state)
    state = state + k.mT @ correction
    return (q @ state).transpose(1, 2), state
