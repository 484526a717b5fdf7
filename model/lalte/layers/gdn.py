"""Gated DeltaNet (arXiv 2412.06464): linear attention whose state is one matrix per head."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

from lalte.layers.linear import Linear
from lalte.layers.mixer import Mixer, State, Where
from lalte.layers.norm import RMSNorm
from lalte.state.tensors import GDNState, LocalGDNState, compute_dtype
from lalte_kernels import RULE_CHUNK, gated_delta_rule, short_conv

if TYPE_CHECKING:
    from lalte.config import GDNConfig, ModelConfig

L2_EPS = 1e-6  # inside the root, when q and k are brought to unit length


class ShortConv(nn.Module):
    """Weight of a causal depthwise convolution, [channels, 1, kernel]."""

    def __init__(
        self, channels: int, kernel: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, 1, kernel, dtype=dtype, device=device))


class GatedDelta(Mixer[State]):
    """What layers with the gated delta rule share.

    q, k and v go through short convolution and SiLU; then the rule, then a gated RMSNorm.
    a = exp(-exp(A_log) softplus(a_proj x + dt_bias)) decays the state; b = sigmoid(b_proj x) is
    how much of a correction is written.
    """

    def __init__(
        self, config: ModelConfig, layer: GDNConfig, dtype: torch.dtype, device: torch.device
    ) -> None:
        super().__init__()
        self.chunk = config.chunk
        # The rule's bits are those of a call a block where blocks are whole chunks of its own.
        self.absorbs_at_once = config.chunk % RULE_CHUNK == 0
        self.heads = layer.num_heads
        self.k_dim = layer.head_k_dim
        self.v_dim = layer.head_v_dim
        keys, values = self.heads * self.k_dim, self.heads * self.v_dim
        self.q_conv1d = ShortConv(keys, layer.conv_kernel, dtype, device)
        self.k_conv1d = ShortConv(keys, layer.conv_kernel, dtype, device)
        self.v_conv1d = ShortConv(values, layer.conv_kernel, dtype, device)
        self.o_norm = RMSNorm(self.v_dim, config.rms_norm_eps, dtype, device)
        # Decay rates lose too much in bf16, so they are not the model's dtype.
        compute = compute_dtype(dtype)
        self.A_log = nn.Parameter(torch.empty(self.heads, dtype=compute, device=device))
        self.dt_bias = nn.Parameter(torch.empty(self.heads, dtype=compute, device=device))

    def mix(
        self, inputs: tuple[torch.Tensor, ...], tail: torch.Tensor, recurrent: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The rule over n tokens, as a function that can be differentiated.

        inputs: (q, k and v side by side; a; b; output gate), each [lanes, n, features]. tail,
        recurrent: a GDNState's. Returns (mixed [lanes, n, features], tail and recurrent after n
        tokens).
        """
        qkv, a, b, gate = inputs
        lanes, n = qkv.shape[:2]
        compute = recurrent.dtype
        convs = (self.q_conv1d, self.k_conv1d, self.v_conv1d)
        taps = torch.cat([conv.weight[:, 0] for conv in convs])
        qkv, tail = short_conv(qkv, taps, tail)
        keys = self.heads * self.k_dim
        q, k, v = qkv.to(compute).tensor_split([keys, 2 * keys], dim=-1)
        q = _unit(q.reshape(lanes, n, self.heads, self.k_dim)) * self.k_dim**-0.5
        k = _unit(k.reshape(lanes, n, self.heads, self.k_dim))
        v = v.reshape(lanes, n, self.heads, self.v_dim)
        rate = self.A_log.to(compute).exp()
        g = -rate * functional.softplus(a.to(compute) + self.dt_bias.to(compute))
        beta = b.to(compute).sigmoid()

        mixed, recurrent = gated_delta_rule(q, k, v, g, beta, recurrent)
        gate = functional.silu(gate.to(compute)).reshape(mixed.shape)
        out: torch.Tensor = self.o_norm(mixed) * gate
        return out.reshape(lanes, n, -1).to(qkv.dtype), tail, recurrent

    def mix_on(
        self, inputs: tuple[torch.Tensor, ...], state: GDNState | LocalGDNState
    ) -> torch.Tensor:
        """Mix n rows of each lane, as `mix`, and leave the state after them."""
        mixed, tail, recurrent = self.mix(inputs, state.tail, state.recurrent)
        state.recurrent.copy_(recurrent)
        state.tail.copy_(tail)
        return mixed


class GatedDeltaNet(GatedDelta[GDNState]):
    """The layer of the paper, with projections of its own."""

    def __init__(
        self, config: ModelConfig, layer: GDNConfig, dtype: torch.dtype, device: torch.device
    ) -> None:
        super().__init__(config, layer, dtype, device)
        hidden = config.hidden_size
        keys, values = self.heads * self.k_dim, self.heads * self.v_dim
        self.q_proj = Linear(hidden, keys, dtype, device)
        self.k_proj = Linear(hidden, keys, dtype, device)
        self.v_proj = Linear(hidden, values, dtype, device)
        self.a_proj = Linear(hidden, self.heads, dtype, device)
        self.b_proj = Linear(hidden, self.heads, dtype, device)
        self.g_proj = Linear(hidden, values, dtype, device)
        self.o_proj = Linear(values, hidden, dtype, device)

    def project(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        qkv = torch.cat([self.q_proj(x), self.k_proj(x), self.v_proj(x)], dim=-1)
        return qkv, self.a_proj(x), self.b_proj(x), self.g_proj(x)

    def advance(
        self,
        inputs: tuple[torch.Tensor, ...],
        state: GDNState,
        where: Where,  # noqa: ARG002 - a recurrence does not care where it is
    ) -> torch.Tensor:
        return self.mix_on(inputs, state)

    def absorb(
        self,
        inputs: tuple[torch.Tensor, ...],
        state: GDNState,
        start: int,
        tokens: torch.Tensor,
        blocks: int,
    ) -> torch.Tensor:
        if not self.absorbs_at_once:
            return super().absorb(inputs, state, start, tokens, blocks)
        where = Where.of([start], [0], inputs[0].shape[0], inputs[0].device)
        return self.advance(tuple(x[None] for x in inputs), state, where)[0]

    def output(self, mixed: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.o_proj(mixed)
        return out

    def roll(self, state: GDNState, start: int, tokens: torch.Tensor) -> None:
        """Nothing to do: the recurrent state is up to date after every token."""

    def prepare(self, state: GDNState, start: int) -> None:
        """Nothing to do: there is no scratch."""


def _unit(x: torch.Tensor) -> torch.Tensor:
    return x * torch.rsqrt(x.square().sum(dim=-1, keepdim=True) + L2_EPS)
