"""Sparse attention with learnable token eviction (LTE, arXiv 2510.20787).

Query i sees the tokens j >= i - w, and of the older ones the at most B per KV head that the router
found worth keeping. Buffers are [retained | window | block]. With window w >= C + 2 * reach every
score that a block needs can be computed from the window at its start, so what is evicted never
depends on attention inside the block, nor on how the block was cut.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from lalte.config import ROUTER_LAYERS
from lalte.layers.attention import Attention, shift_window
from lalte.state.tensors import LTEState, budget_rows
from lalte_kernels import (
    Leaving,
    Retained,
    Router,
    bounded_positions,
    retained_update,
    retained_visibility,
    retention_score,
    rope,
)

if TYPE_CHECKING:
    from lalte.config import LTEConfig, ModelConfig
    from lalte.layers.mixer import Where


class GroupedConv(nn.Module):
    """Weights of one router convolution. weight: [out, in / groups, 1, kernel]; bias: [out]."""

    def __init__(
        self, shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device
    ) -> None:
        super().__init__()
        out, inputs, kernel = shape
        self.weight = nn.Parameter(torch.empty(out, inputs, 1, kernel, dtype=dtype, device=device))
        self.bias = nn.Parameter(torch.empty(out, dtype=dtype, device=device))


class ConvStack(nn.Module):
    """The router's layers: channels 2d -> d -> d/2 -> d/4 -> 1, per KV head."""

    def __init__(
        self, config: ModelConfig, layer: LTEConfig, dtype: torch.dtype, device: torch.device
    ) -> None:
        super().__init__()
        heads = config.num_kv_heads
        sizes = [2 * config.head_dim // 2**n for n in range(ROUTER_LAYERS + 1)]
        self.convs = nn.ModuleList(
            GroupedConv((heads * sizes[n + 1], sizes[n], layer.router_kernel), dtype, device)
            for n in range(ROUTER_LAYERS)
        )
        self.proj = GroupedConv((heads, sizes[-1], 1), dtype, device)


class RouterModule(nn.Module):
    """Holds the conv stack under the name that published checkpoints use."""

    def __init__(
        self, config: ModelConfig, layer: LTEConfig, dtype: torch.dtype, device: torch.device
    ) -> None:
        super().__init__()
        self.dilation = layer.router_dilation
        self.conv_stack = ConvStack(config, layer, dtype, device)

    def weights(self) -> Router:
        stack = self.conv_stack
        convs = [conv for conv in stack.convs if isinstance(conv, GroupedConv)]
        return Router(
            tuple(conv.weight for conv in convs),
            tuple(conv.bias for conv in convs),
            stack.proj.weight,
            stack.proj.bias,
            self.dilation,
        )


class LTEAttention(Attention[LTEState]):
    """See the module's text. B is the largest budget of the layer's heads."""

    def __init__(
        self, config: ModelConfig, layer: LTEConfig, dtype: torch.dtype, device: torch.device
    ) -> None:
        super().__init__(config, dtype, device)
        self.kept = budget_rows(layer)
        self.window = layer.window
        self.reach = layer.reach
        self.sinks = layer.sinks
        self.token_window = config.token_window
        self.evicts_each_token = config.eviction_grid == "token"
        self.span = config.position_span if config.positions == "bounded" else None
        self.budgets = torch.tensor(layer.budgets, dtype=torch.int64, device=device)
        self.router = RouterModule(config, layer, dtype, device)

    def block_rows(self, starts: list[int]) -> list[int]:
        return [self.kept + self.window] * len(starts)

    def visible(self, state: LTEState, where: Where) -> torch.Tensor:
        device = state.key.device
        lanes, n = where.relative.shape
        in_block = torch.arange(self.chunk, device=device) <= where.relative[:, None, :, None]
        if self.evicts_each_token:
            lane = torch.arange(lanes, device=device)[:, None]
            past = state.visible[lane, :, where.relative].transpose(1, 2)
        else:
            past = state.visible.expand(-1, -1, n, -1)
        return torch.cat([past, in_block.expand(-1, self.kv_heads, -1, -1)], dim=-1)

    def roll(self, state: LTEState, start: int, tokens: torch.Tensor) -> None:
        leaves = slice(self.kept, self.kept + self.chunk)
        oldest = self.token_window - self.window  # in `tokens`, the window's first
        update = retained_update(
            Retained(
                state.key[0, :, : self.kept],
                state.value[0, :, : self.kept],
                state.logit[0],
                state.position[0],
                state.token[0],
            ),
            Leaving(
                state.key[0, :, leaves],
                state.value[0, :, leaves],
                state.ready[0, :, : self.chunk],
                tokens[oldest : oldest + self.chunk],
                start - self.window,
            ),
            self.budgets,
            self.sinks,
        )
        state.key[0, :, : self.kept] = update.key
        state.value[0, :, : self.kept] = update.value
        state.logit[0], state.position[0], state.token[0] = update[2:]
        shift_window(state.key, self.kept, self.window, self.chunk)
        shift_window(state.value, self.kept, self.window, self.chunk)
        state.ready[0, :, : self.reach] = state.ready[0, :, self.chunk :].clone()
        self.prepare(state, start + self.chunk)

    def prepare(self, state: LTEState, start: int) -> None:
        self._score(state, start)
        self._see(state, start)
        position = state.position[0]
        if self.span is not None:
            position = bounded_positions(position, start, self.span)
        past = self.kept + self.window
        window = torch.arange(-self.window, 0, device=position.device).expand(self.kv_heads, -1)
        # Unused rows are turned too, by an angle that does not matter: they are zero and hidden.
        relative = torch.cat([position - start, window], dim=-1)
        state.rotated[0, :, :past] = rope(state.key[0, :, :past], relative, self.theta)

    def _score(self, state: LTEState, start: int) -> None:
        """Complete the logits of tokens t - w .. t - w + C + reach - 1, from the window."""
        rows = slice(self.kept, self.kept + self.chunk + 2 * self.reach)
        first = start - self.window
        state.ready[0, :, self.reach :] = retention_score(
            state.key[0, :, rows], state.value[0, :, rows], self.router.weights(), first
        )
        # Scores of the zero padding mean nothing, and what means nothing is stored as zero.
        state.ready[0, :, : max(-first, 0)] = 0

    def _see(self, state: LTEState, start: int) -> None:
        """Fill `visible`: what each query of the block sees of [retained | window]."""
        if self.evicts_each_token:
            state.visible[0] = retained_visibility(
                state.logit[0],
                state.position[0],
                state.ready[0, :, : self.chunk],
                self.window,
                start,
                self.budgets,
                self.sinks,
            )
            return
        window = torch.arange(start - self.window, start, device=state.key.device) >= 0
        state.visible[0, :, 0, : self.kept] = state.position[0] >= 0
        state.visible[0, :, 0, self.kept :] = window
