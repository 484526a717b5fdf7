"""A Gated DeltaNet branch beside a small window of softmax attention, on shared projections.

What a retrofit puts in place of an attention layer whose work is local. Full attention is

    share * (attention to sinks and window) + (1 - share) * (attention to what lies between),

share = z / (z + z_old) with z the sum of e^score over the keys. The first part is computed as it
was, with a learned estimate of log z_old (`null_logit`); the branch learns the rest. The branch
reads the layer's own q, k (before RoPE) and v, each plus a low-rank term, so that only that
term, the convolutions, gates and norm are new.

Attention gives the first tokens weight whatever they say (Xiao et al., arXiv 2309.17453), which a
recurrence would have to carry through the whole stream: a sink or two beside the window spare it
that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from lalte.config import GDNConfig
from lalte.layers.attention import column, shift_window
from lalte.layers.gdn import GatedDelta
from lalte.layers.linear import Linear
from lalte.state.tensors import LocalGDNState, compute_dtype
from lalte_kernels import bounded_positions, null_attention, rope

if TYPE_CHECKING:
    from lalte.config import LocalGDNConfig, ModelConfig
    from lalte.layers.mixer import Where


class LowRank(nn.Module):
    """x -> up(down(x)). What it adds to q, k, v, in this order, and the branch's output gate."""

    def __init__(
        self, hidden: int, rank: int, out: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        super().__init__()
        self.down = Linear(hidden, rank, dtype, device)
        self.up = Linear(rank, out, dtype, device)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.up(self.down(x))
        return out


class LocalGDN(GatedDelta[LocalGDNState]):
    """See the module's text. Key and value buffers are [sinks | window - 1 older tokens | block].

    A sink's row is filled when its block, the first, is full; until then it is seen in the block.

    `absorb` takes all its blocks at once: a block's window is a slice of the stream's rows.

    gates_proj gives a, b (as in Gated DeltaNet) and the null logit's part that depends on x, each
    one number per query head.
    """

    def __init__(
        self, config: ModelConfig, layer: LocalGDNConfig, dtype: torch.dtype, device: torch.device
    ) -> None:
        d = config.head_dim
        branch = GDNConfig(config.num_heads, d, d, layer.conv_kernel)
        super().__init__(config, branch, dtype, device)
        self.absorb_uses_scratch = not self.absorbs_at_once
        self.kv_heads = config.num_kv_heads
        self.head_dim = d
        self.theta = config.rope_theta
        self.sinks = layer.sinks
        self.past = layer.window - 1
        self.span = config.position_span if config.positions == "bounded" else None
        hidden, width = config.hidden_size, config.num_heads * d
        self.q_proj = Linear(hidden, width, dtype, device)
        self.k_proj = Linear(hidden, self.kv_heads * d, dtype, device)
        self.v_proj = Linear(hidden, self.kv_heads * d, dtype, device)
        self.o_proj = Linear(width, hidden, dtype, device)
        self.delta = LowRank(hidden, layer.rank, 4 * width, dtype, device)
        self.gates_proj = Linear(hidden, 3 * self.heads, dtype, device)
        compute = compute_dtype(dtype)
        self.null_bias = nn.Parameter(torch.empty(self.heads, dtype=compute, device=device))

    def project(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.q_proj(x), self.k_proj(x), self.v_proj(x), self.delta(x), self.gates_proj(x)

    def branch_inputs(
        self, inputs: tuple[torch.Tensor, ...]
    ) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
        """Return (what `mix` takes, null logits [lanes, kv_heads, group, n]) of `project`'s rows.

        inputs: what `project` gave, [lanes, n, features] each.
        """
        q, k, v, delta, gates = inputs
        lanes, n, width = q.shape
        shared = torch.cat([q, self._each_head(k), self._each_head(v)], dim=-1)
        a, b, null = gates.view(lanes, n, 3, self.heads).unbind(-2)
        logit = null.to(self.null_bias.dtype) + self.null_bias
        logit = logit.mT.reshape(lanes, self.kv_heads, -1, n)
        return (shared + delta[..., : 3 * width], a, b, delta[..., 3 * width :]), logit

    def advance(
        self, inputs: tuple[torch.Tensor, ...], state: LocalGDNState, where: Where
    ) -> torch.Tensor:
        lanes, n = inputs[0].shape[:2]
        q, k, v = self.split_heads(inputs)
        turned_k = rope(k, where.relative[:, None], self.theta)
        turned_q = rope(q, where.relative[:, None, None], self.theta)
        for lane, filled in enumerate(where.filled):
            first = self.sinks + self.past + filled
            rows = slice(first, first + n)
            state.key[lane, :, rows] = k[lane]
            state.rotated[lane, :, rows] = turned_k[lane]
            state.value[lane, :, rows] = v[lane]

        branch, null_logit = self.branch_inputs(inputs)
        visible = self.visible(where.relative, column(where.starts, q.device))
        local = null_attention(turned_q, state.rotated, state.value, visible, null_logit)
        mixed = self.mix_on(branch, state)
        return local.permute(0, 3, 1, 2, 4).reshape(lanes, n, -1) + mixed

    def absorb(
        self,
        inputs: tuple[torch.Tensor, ...],
        state: LocalGDNState,
        start: int,
        tokens: torch.Tensor,
        blocks: int,
    ) -> torch.Tensor:
        if not self.absorbs_at_once:
            return super().absorb(inputs, state, start, tokens, blocks)
        inputs = tuple(x[None] for x in inputs)
        q, k, v = (x[0] for x in self.split_heads(inputs))
        sinks, older = slice(0, self.sinks), self.sinks + self.past
        if start == 0:
            state.key[0, :, sinks], state.value[0, :, sinks] = k[:, sinks], v[:, sinks]
        key, value = (
            torch.cat([held[0, :, self.sinks : older], new], dim=1)
            for held, new in ((state.key, k), (state.value, v))
        )

        branch, null_logit = self.branch_inputs(inputs)
        starts = torch.arange(blocks, device=key.device)[:, None, None, None] * self.chunk + start
        relative = torch.arange(self.chunk, device=key.device).expand(blocks, -1)
        recent = torch.arange(-self.past, self.chunk, device=key.device)
        sink = self.stand(torch.arange(self.sinks, device=key.device) - starts)
        sink_key, sink_value = (x[0, :, sinks] for x in (state.key, state.value))
        turned_sinks = rope(sink_key.expand(blocks, -1, -1, -1), sink[:, 0], self.theta)
        local = null_attention(
            rope(self._blocks(q), relative[0], self.theta),
            torch.cat([turned_sinks, rope(self._windows(key), recent, self.theta)], dim=2),
            torch.cat([sink_value.expand(blocks, -1, -1, -1), self._windows(value)], dim=2),
            self.visible(relative, starts),
            self._blocks(null_logit[0, ..., None])[..., 0],
        )
        mixed = self.mix_on(branch, state)
        state.key[0, :, self.sinks : older] = key[:, key.shape[1] - self.past :]
        state.value[0, :, self.sinks : older] = value[:, value.shape[1] - self.past :]
        return local.permute(0, 3, 1, 2, 4).reshape(mixed.shape[1], -1) + mixed[0]

    def output(self, mixed: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.o_proj(mixed)
        return out

    def roll(self, state: LocalGDNState, start: int, tokens: torch.Tensor) -> None:  # noqa: ARG002
        for buffer in (state.key, state.value):
            if start == 0:
                block = self.sinks + self.past
                buffer[:, :, : self.sinks] = buffer[:, :, block : block + self.sinks]
            shift_window(buffer, self.sinks, self.past, self.chunk)
        self.prepare(state, start + self.chunk)

    def prepare(self, state: LocalGDNState, start: int) -> None:
        device, older = state.key.device, self.sinks + self.past
        sinks = torch.arange(self.sinks, device=device) - start
        stand = torch.cat([self.stand(sinks), torch.arange(-self.past, 0, device=device)])
        state.rotated[:, :, :older] = rope(state.key[:, :, :older], stand, self.theta)

    def stand(self, relative: torch.Tensor) -> torch.Tensor:
        """Return where a block's queries find the sinks, of where they are, relative to t.

        int64 [..., sinks].
        """
        return relative if self.span is None else bounded_positions(relative, 0, self.span)

    def split_heads(self, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        """Return q [lanes, kv_heads, group, n, d], k and v [lanes, kv_heads, n, d], unturned."""
        lanes, n = inputs[0].shape[:2]
        q = inputs[0].reshape(lanes, n, self.kv_heads, -1, self.head_dim).permute(0, 2, 3, 1, 4)
        k, v = (
            x.reshape(lanes, n, self.kv_heads, self.head_dim).transpose(1, 2) for x in inputs[1:3]
        )
        return q, k, v

    def visible(self, relative: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
        """Which buffer rows the queries see. relative: [lanes, n]; starts: [lanes, 1, 1, 1]."""
        row = torch.arange(-self.past, self.chunk, device=relative.device)  # relative to the block
        own = relative[:, None, :, None]
        seen = (row <= own) & (row >= own - self.past) & (row >= -starts)
        if not self.sinks:
            return seen
        seen |= (starts == 0) & (row >= 0) & (row < self.sinks) & (row <= own)
        # A sink is seen in its own row from where block and window have left it behind.
        left = torch.arange(self.sinks, device=row.device) < starts + own - self.past
        return torch.cat([left & (starts > 0), seen], dim=-1)

    def _blocks(self, x: torch.Tensor) -> torch.Tensor:
        """Cut rows: [kv_heads, group, blocks * C, d] -> [blocks, kv_heads, group, C, d]."""
        heads, group, _, d = x.shape
        return x.reshape(heads, group, -1, self.chunk, d).permute(2, 0, 1, 3, 4)

    def _windows(self, x: torch.Tensor) -> torch.Tensor:
        """Cut rows that overlap: [kv_heads, past + blocks * C, d] -> [blocks, .., past + C, d]."""
        return x.unfold(1, self.past + self.chunk, self.chunk).permute(1, 0, 3, 2)

    def _each_head(self, x: torch.Tensor) -> torch.Tensor:
        """Repeat each KV head's features for the query heads of its group."""
        heads = x.reshape(*x.shape[:2], self.kv_heads, 1, self.head_dim)
        group = self.heads // self.kv_heads
        return heads.expand(-1, -1, -1, group, -1).reshape(*x.shape[:2], -1)
