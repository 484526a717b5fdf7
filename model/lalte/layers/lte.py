"""Sparse attention with learnable token eviction (LTE, arXiv 2510.20787).

Query i sees the tokens j >= i - w, and of the older ones the at most B per KV head that the router
found worth keeping. Buffers are [retained | window | block]. With window w >= C + 2 * reach every
score that a block needs can be computed from the window at its start, so what is evicted never
depends on attention inside the block, nor on how the block was cut.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import nn

from lalte.config import ROUTER_LAYERS
from lalte.layers.attention import BufferedAttention
from lalte.state.tensors import LTEState, budget_rows
from lalte_kernels import (
    Router,
    bounded_positions,
    retained_update,
    retained_visibility,
    retention_score,
    rope,
    sparse_attention,
)

if TYPE_CHECKING:
    from lalte.config import LTEConfig, ModelConfig
    from lalte.layers.mixer import Where


FRAME_BLOCKS = 8  # blocks whose keys are turned relative to one position


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


class _Stream(NamedTuple):
    """Rows [one empty row | retained | window | n new ones] of one slot.

    key (before RoPE), value: [kv_heads, 1 + B + w + n, d]. logit, position (int64), token (int32):
    [kv_heads, 1 + B + n], of the rows that may be retained: all but the last w.
    start: position of the first new row.
    """

    key: torch.Tensor
    value: torch.Tensor
    logit: torch.Tensor
    position: torch.Tensor
    token: torch.Tensor
    start: int


class LTEAttention(BufferedAttention[LTEState]):
    """See the module's text. B is the largest budget of the layer's heads."""

    absorb_uses_scratch = False

    def __init__(
        self, config: ModelConfig, layer: LTEConfig, dtype: torch.dtype, device: torch.device
    ) -> None:
        super().__init__(config, dtype, device)
        self.kept = budget_rows(layer)
        self.window = layer.window
        self.reach = layer.reach
        self.sinks = layer.sinks
        self.evicts_each_token = config.eviction_grid == "token"
        self.span = config.position_span if config.positions == "bounded" else None
        self.frame = FRAME_BLOCKS * config.chunk
        self.budgets = torch.tensor(layer.budgets, dtype=torch.int64, device=device)
        self.router = RouterModule(config, layer, dtype, device)

    def block_rows(self, starts: list[int]) -> list[int]:
        return [self.kept + self.window] * len(starts)

    def angles(self, where: Where) -> torch.Tensor:
        starts = torch.tensor(where.starts, device=where.relative.device)[:, None]
        return where.relative + starts % self.frame

    def visible(self, state: LTEState, where: Where) -> torch.Tensor:
        lanes, n = where.relative.shape
        if self.evicts_each_token:
            lane = torch.arange(lanes, device=state.key.device)[:, None]
            past = state.visible[lane, :, where.relative].transpose(1, 2)
        else:
            past = state.visible.expand(-1, -1, n, -1)
        in_block = self._causal(where.relative)[:, None]
        return torch.cat([past, in_block.expand(-1, self.kv_heads, -1, -1)], dim=-1)

    def absorb(
        self,
        inputs: tuple[torch.Tensor, ...],
        state: LTEState,
        start: int,
        tokens: torch.Tensor,
        blocks: int,
    ) -> torch.Tensor:
        """See Mixer. What stays at each boundary is known before any block is attended to."""
        past, n = self.kept + self.window, inputs[0].shape[0]
        q, k, v = (x[0] for x in self.split_heads(tuple(x[None] for x in inputs)))
        key = torch.cat([state.key[0, :, :past], k], dim=1)
        value = torch.cat([state.value[0, :, :past], v], dim=1)
        # From the first row that the persisted logits do not cover, with the router's margin.
        scored = slice(self.kept, self.kept + n + 2 * self.reach)
        logit = torch.cat(
            [
                state.ready[0, :, : self.reach],
                self.score(key[:, scored], value[:, scored], start - self.window),
            ],
            dim=1,
        )
        stream = self._lay_out(state, key, value, logit[:, :n], tokens, start)
        rows = self._decide(state, stream, blocks)

        starts = torch.arange(blocks + 1, device=key.device)[:, None, None] * self.chunk + start
        position = stream.position.expand(blocks + 1, -1, -1).gather(-1, rows)
        stand = self._stand(position - starts) + starts % self.frame
        in_frame = (torch.arange(n, device=key.device) + start) % self.frame
        q = rope(q, in_frame, self.theta)
        in_block = torch.arange(self.chunk, device=key.device)
        all_used = (position >= 0).flatten(1).all(dim=-1).tolist()
        mixed = []
        for number, queries in enumerate(torch.split(q, self.chunk, dim=-2)):
            block = start + number * self.chunk
            if number == 0 or block % self.frame == 0:
                turned, turned_from = self._turn_recent(stream, block), number
            recent = slice(self.chunk * (number - turned_from), None)
            keys, values = self._gather(
                stream, rows[number], stand[number], turned[:, recent], number
            )
            visible, earlier = self._causal(in_block), None
            if self.evicts_each_token:
                seen = self._see_each(stream, rows[number], position[number], number)
                visible = torch.cat([seen, visible.expand(self.kv_heads, -1, -1)], dim=-1)
            elif not all_used[number] or block < self.window:
                earlier = self._see(position[number], block)
            out = sparse_attention(queries[None], keys[None], values[None], visible, earlier)
            mixed.append(out[0].permute(2, 0, 1, 3).reshape(self.chunk, -1))
        self._commit(state, stream, rows[-1])
        state.ready[0, :, : self.reach] = logit[:, n:]
        return torch.cat(mixed)

    def roll(self, state: LTEState, start: int, tokens: torch.Tensor) -> None:
        logit = state.ready[0, :, : self.chunk]
        stream = self._lay_out(state, state.key[0], state.value[0], logit, tokens, start)
        self._commit(state, stream, self._decide(state, stream, 1)[-1])
        state.ready[0, :, : self.reach] = state.ready[0, :, self.chunk :].clone()
        self.prepare(state, start + self.chunk)

    def prepare(self, state: LTEState, start: int) -> None:
        self._score(state, start)
        position = state.position[0]
        if self.evicts_each_token:
            state.visible[0] = retained_visibility(
                state.logit[0],
                position,
                state.ready[0, :, : self.chunk],
                self.window,
                start,
                self.budgets,
                self.sinks,
            )
        else:
            state.visible[0, :, 0] = self._see(position, start)
        past = self.kept + self.window
        # Unused rows are turned too, by an angle that does not matter: they are zero and hidden.
        stand = torch.cat([self._stand(position - start), self._window_stand(position)], dim=-1)
        angles = stand + start % self.frame
        state.rotated[0, :, :past] = rope(state.key[0, :, :past], angles, self.theta)

    def score(self, key: torch.Tensor, value: torch.Tensor, first: int) -> torch.Tensor:
        """Logits of consecutive tokens, all but `reach` of them on each side.

        key (before RoPE), value: [kv_heads, m * C + 2 * reach, d], the first row at position
        `first`. Returns [kv_heads, m * C], fp32 or fp64.
        """
        logit = retention_score(key, value, self.router.weights(), first, self.chunk)
        # Scores of the zero padding mean nothing, and what means nothing is stored as zero.
        logit[:, : max(-first - self.reach, 0)] = 0
        return logit

    def _score(self, state: LTEState, start: int) -> None:
        """Complete the logits of tokens t - w .. t - w + C + reach - 1, from the window."""
        rows = slice(self.kept, self.kept + self.chunk + 2 * self.reach)
        state.ready[0, :, self.reach :] = self.score(
            state.key[0, :, rows], state.value[0, :, rows], start - self.window
        )

    def _lay_out(
        self,
        state: LTEState,
        key: torch.Tensor,
        value: torch.Tensor,
        logit: torch.Tensor,
        tokens: torch.Tensor,
        start: int,
    ) -> _Stream:
        """Return the rows of `state`, as _Stream says, with n new tokens.

        key, value: [retained | window | new]. logit: [kv_heads, n], of the n oldest of window and
        new. tokens: ids up to the last new one's.
        """
        n = logit.shape[1]
        first = tokens.shape[0] - n - self.window
        position = torch.arange(n, device=key.device) + (start - self.window)
        leaving = (logit, position, tokens[first : first + n])
        held = (state.logit[0], state.position[0], state.token[0])
        empty = (0, -1, 0)
        columns = [
            torch.cat([old.new_full((self.kv_heads, 1), of_none), old, new.expand(len(old), n)], 1)
            for old, new, of_none in zip(held, leaving, empty, strict=True)
        ]
        return _Stream(_pad(key), _pad(value), columns[0], columns[1], columns[2], start)

    def _decide(self, state: LTEState, stream: _Stream, blocks: int) -> torch.Tensor:
        """Return the stream's rows that are retained at each boundary, the first one included.

        int64 [blocks + 1, kv_heads, B], oldest first, 0 where a row is unused.
        """
        position = state.position[0]
        now = torch.arange(1, self.kept + 1, device=position.device) * (position >= 0)
        later = retained_update(
            state.logit[0],
            position,
            stream.logit[:, 1 + self.kept :],
            stream.start - self.window,
            self.budgets,
            self.sinks,
            self.chunk,
        )
        return torch.cat([now[None], later[:blocks]])

    def _commit(self, state: LTEState, stream: _Stream, rows: torch.Tensor) -> None:
        """Write what is persisted of the stream's end. rows: int64 [kv_heads, B]."""
        state.key[0, :, : self.kept] = _take(stream.key, rows)
        state.value[0, :, : self.kept] = _take(stream.value, rows)
        past = slice(self.kept, self.kept + self.window)
        state.key[0, :, past] = stream.key[:, -self.window :]
        state.value[0, :, past] = stream.value[:, -self.window :]
        state.logit[0] = stream.logit.gather(1, rows)
        state.position[0] = stream.position.gather(1, rows)
        state.token[0] = stream.token.gather(1, rows)

    def _turn_recent(self, stream: _Stream, block: int) -> torch.Tensor:
        """Return keys after RoPE from the window before a block on, to its frame's last.

        A frame is some blocks from a multiple of its length on. Angles are taken relative to its
        start, which lies less than a frame before the block's own and like that is a function of
        the position alone; so a key is turned once a frame, not once a block.
        """
        first = 1 + self.kept + block - stream.start
        in_frame = block % self.frame
        key = stream.key[:, first : first + self.window + self.frame - in_frame]
        relative = torch.arange(key.shape[1], device=key.device) + (in_frame - self.window)
        return rope(key, relative, self.theta)

    def _gather(
        self,
        stream: _Stream,
        rows: torch.Tensor,
        stand: torch.Tensor,
        recent_key: torch.Tensor,
        number: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return keys after RoPE and values of [retained | window | block], for one block.

        recent_key: [kv_heads, w + C or more, d], the keys after RoPE of window and block.
        """
        size = self.window + self.chunk
        first = 1 + self.kept + number * self.chunk
        kept_key = rope(_take(stream.key, rows), stand, self.theta)
        kept_value = _take(stream.value, rows)
        return (
            torch.cat([kept_key, recent_key[:, :size]], dim=1),
            torch.cat([kept_value, stream.value[:, first : first + size]], dim=1),
        )

    def _see_each(
        self, stream: _Stream, rows: torch.Tensor, position: torch.Tensor, number: int
    ) -> torch.Tensor:
        """Return what each query of a block sees of [retained | window]: [kv_heads, C, B + w]."""
        first = 1 + self.kept + number * self.chunk
        return retained_visibility(
            stream.logit.gather(1, rows),
            position,
            stream.logit[:, first : first + self.chunk],
            self.window,
            stream.start + number * self.chunk,
            self.budgets,
            self.sinks,
        )

    def _see(self, position: torch.Tensor, start: int) -> torch.Tensor:
        """Return which rows of [retained | window] hold a token: [kv_heads, B + w]."""
        return torch.cat([position >= 0, self._window_stand(position) + start >= 0], dim=-1)

    def _stand(self, relative: torch.Tensor) -> torch.Tensor:
        """Return where retained tokens are said to stand, of where they do, relative to t."""
        return relative if self.span is None else bounded_positions(relative, 0, self.span)

    def _window_stand(self, like: torch.Tensor) -> torch.Tensor:
        """Return the window's positions relative to t, for each head: [kv_heads, w]."""
        return torch.arange(-self.window, 0, device=like.device).expand(self.kv_heads, -1)

    def _causal(self, relative: torch.Tensor) -> torch.Tensor:
        """Return which of the block's C rows queries see. relative: [..., n] -> [..., n, C]."""
        return torch.arange(self.chunk, device=relative.device) <= relative[..., None]


def _pad(x: torch.Tensor) -> torch.Tensor:
    """Put one empty row before the others: [kv_heads, rows, d] -> [kv_heads, 1 + rows, d]."""
    return torch.cat([x.new_zeros(x.shape[0], 1, x.shape[2]), x], dim=1)


def _take(x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Return the named rows of each head. x: [kv_heads, rows, d]; rows: int64 [kv_heads, m]."""
    # Several times as fast as gather along the second dimension.
    first = torch.arange(x.shape[0], device=x.device)[:, None] * x.shape[1]
    taken = x.flatten(0, 1).index_select(0, (rows + first).flatten())
    return taken.view(*rows.shape, x.shape[2])
