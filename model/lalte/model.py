"""The language model, and the ways in which a stream goes into a state.

Glossary (method and paper's symbols):
    C        config.chunk; a stream is cut into blocks [kC, (k+1)C) from its own start
    t        start of the open block, the last committed offset; the state there is a function of
             the first t tokens alone
    filled   tokens in the open block, offset - t
    w, B, s  window, budget per KV head and sinks of an LTE layer
    S        recurrent matrix of a Gated DeltaNet head
    slot     one session's state; a lane is a slot taking part in a call

Two ways lead through the layers. `_run` takes any number of tokens: token-wise work (norms, matrix
products, MLP) covers all rows of all sessions at once, layer by layer, while each layer's state
advances block by block, one session at a time. So a committed block is computed at one fixed
shape, and its bits do not depend on what else was in the batch. `step` takes one token for each
of many lanes and batches everything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional

from lalte.config import (
    FullConfig,
    GDNConfig,
    GrowingLayerConfig,
    LocalGDNConfig,
    LTEConfig,
    NSAConfig,
)
from lalte.layers.full import FullAttention
from lalte.layers.gdn import GatedDeltaNet
from lalte.layers.linear import Linear
from lalte.layers.local_gdn import LocalGDN
from lalte.layers.lte import LTEAttention
from lalte.layers.mixer import Mixer, Where
from lalte.layers.mlp import MLP
from lalte.layers.norm import RMSNorm
from lalte.layers.nsa import NativeSparseAttention
from lalte.layers.swa import SlidingWindowAttention
from lalte.state import StateSlots
from lalte.state.tensors import compute_dtype

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lalte.config import LayerConfig, ModelConfig
    from lalte.state import StateView


def make_mixer(
    config: ModelConfig, layer: LayerConfig, dtype: torch.dtype, device: torch.device
) -> Mixer[Any]:
    """Return the mixer that a layer's config describes."""
    if isinstance(layer, GDNConfig):
        return GatedDeltaNet(config, layer, dtype, device)
    if isinstance(layer, LocalGDNConfig):
        return LocalGDN(config, layer, dtype, device)
    if isinstance(layer, LTEConfig):
        return LTEAttention(config, layer, dtype, device)
    if isinstance(layer, NSAConfig):
        return NativeSparseAttention(config, layer, dtype, device)
    if isinstance(layer, FullConfig):
        return FullAttention(config, dtype, device)
    return SlidingWindowAttention(config, layer, dtype, device)


class Embedding(nn.Module):
    """weight: [vocab_size, hidden_size]."""

    def __init__(self, config: ModelConfig, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        shape = (config.vocab_size, config.hidden_size)
        self.weight = nn.Parameter(torch.empty(shape, dtype=dtype, device=device))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return functional.embedding(tokens, self.weight)


class Block(nn.Module):
    """A mixer and an MLP, each behind a norm and added to the residual stream."""

    def __init__(
        self, config: ModelConfig, layer: LayerConfig, dtype: torch.dtype, device: torch.device
    ) -> None:
        super().__init__()
        self.attn_norm = RMSNorm(config.hidden_size, config.rms_norm_eps, dtype, device)
        self.attn = make_mixer(config, layer, dtype, device)
        self.mlp_norm = RMSNorm(config.hidden_size, config.rms_norm_eps, dtype, device)
        self.mlp = MLP(config, dtype, device)

    def forward(
        self,
        x: torch.Tensor,
        mix: Callable[[tuple[torch.Tensor, ...]], torch.Tensor],
    ) -> torch.Tensor:
        """The layer as one function of its rows. mix: from `project`'s outputs to mixed rows."""
        return self.finish(x, mix(self.attn.project(self.attn_norm(x))))

    def finish(self, x: torch.Tensor, mixed: torch.Tensor) -> torch.Tensor:
        """Add what was mixed, then the MLP. x: [rows, hidden], mixed: [rows, features]."""
        x = x + self.attn.output(mixed)
        out: torch.Tensor = x + self.mlp(self.mlp_norm(x))
        return out


class Backbone(nn.Module):
    """Everything but the vocabulary projection."""

    def __init__(self, config: ModelConfig, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        self.embeddings = Embedding(config, dtype, device)
        self.layers = nn.ModuleList(Block(config, x, dtype, device) for x in config.layers)
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps, dtype, device)


class LaLTE(nn.Module):
    """A language model over fixed-size states. Inference only.

    Parameters start uninitialised: load a state dict (names: `lalte.names`) or call
    `lalte.init.init_weights`. All methods raise ValueError for tokens or views of a wrong shape,
    and token ids outside the vocabulary, before any slot is touched.
    """

    def __init__(
        self,
        config: ModelConfig,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__()
        device = torch.device(device)
        self.config = config
        self.dtype = dtype
        self.model = Backbone(config, dtype, device)
        if not config.tie_embeddings:
            self.lm_head = Linear(config.hidden_size, config.vocab_size, dtype, device)

    @torch.no_grad()
    def absorb(self, tokens: torch.Tensor, views: Sequence[StateView]) -> None:
        """Advance committed states by whole blocks: the only way to a committed state.

        tokens: int64 [sessions, m * C]. views: one slot each, at committed offsets, which may
        differ. The resulting states are the same bits for any m and any company in the batch
        (bf16 with C >= 8, one numerics fingerprint).
        """
        self._check(tokens, 2)
        chunk = self.config.chunk
        if tokens.shape[1] == 0 or tokens.shape[1] % chunk:
            raise ValueError(f"absorb takes whole blocks of {chunk}, not {tokens.shape[1]} tokens")
        for view in views:
            if view.offsets[0] % chunk:
                raise ValueError(f"absorb needs a committed state, not offset {view.offsets[0]}")
        self._run(tokens, views)

    @torch.no_grad()
    def last_logits(self, view: StateView) -> torch.Tensor:
        """Return the logits after the last token that each lane has consumed: [lanes, vocab].

        Raises ValueError for a lane at the start of its stream.
        """
        if not all(view.offsets):
            raise ValueError("there are no logits before the first token of a stream")
        return self._head(view.last_row)

    @torch.no_grad()
    def extend(self, tokens: torch.Tensor, view: StateView) -> torch.Tensor:
        """Append tokens to one slot and return the logits after the last.

        tokens: int64 [n], n >= 1. Meant for copies: a state that `extend` brought to a block
        boundary equals the committed one up to rounding only. Returns [vocab].
        """
        self._check(tokens, 1)
        if tokens.shape[0] == 0:
            raise ValueError("extend needs at least one token: there are no logits after none")
        hidden = self._run(tokens[None], [view])
        return self._head(hidden[0, -1:])[0]

    @torch.no_grad()
    def step(self, tokens: torch.Tensor, view: StateView) -> torch.Tensor:
        """Append one token to each lane, each at its own offset, and return the logits after it.

        tokens: int64 [lanes]; view: as many slots. Returns [lanes, vocab].
        """
        self._check(tokens, 1)
        if tokens.shape[0] != view.lanes:
            raise ValueError(f"step got {tokens.shape[0]} tokens for {view.lanes} slots")
        chunk, window = self.config.chunk, self.config.token_window
        offsets = view.offsets
        starts, filled = [n - n % chunk for n in offsets], [n % chunk for n in offsets]
        where = Where.of(starts, filled, 1, tokens.device)
        view.reserve(1)
        lanes = [view.lane(i) for i in range(view.lanes)]
        for lane, start in zip(lanes, starts, strict=True):
            for index, block in enumerate(self.blocks()):
                self._renew(block.attn, index, lane, start)
        for token, lane, rows in zip(tokens, lanes, filled, strict=True):
            lane.tokens[0, window + rows] = token

        x = self.model.embeddings(tokens)
        for index, block in enumerate(self.blocks()):
            inputs = tuple(y[:, None] for y in block.attn.project(block.attn_norm(x)))
            mixed = self._step(block.attn, index, inputs, view, where)
            x = block.finish(x, mixed[:, 0])
        view.last_row.copy_(x)
        view.advance(1)
        for lane, start, rows in zip(lanes, starts, filled, strict=True):
            if rows + 1 == chunk:
                for index, block in enumerate(self.blocks()):
                    block.attn.roll(lane.layer(index), start, lane.tokens[0])
                lane.tokens[:, :window] = lane.tokens[:, chunk:].clone()
        return self._head(x)

    @torch.no_grad()
    def forward(self, tokens: torch.Tensor, view: StateView) -> torch.Tensor:
        """Append n >= 0 tokens to each lane and return the logits after each of them.

        tokens: int64 [lanes, n]. Returns [lanes, n, vocab].
        """
        self._check(tokens, 2)
        return self._head(self._run(tokens, [view.lane(i) for i in range(view.lanes)]))

    @torch.no_grad()
    def logits(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the logits of whole sequences, from empty states.

        tokens: int64 [batch, n]. Returns [batch, n, vocab].
        """
        device = self.model.norm.weight.device
        slots = StateSlots.allocate(self.config, tokens.shape[0], self.dtype, device)
        out: torch.Tensor = self.forward(tokens, slots.view(0, tokens.shape[0]))
        return out

    def _run(self, tokens: torch.Tensor, lanes: Sequence[StateView]) -> torch.Tensor:
        """Append tokens [lanes, n] to one slot each; return the last layer's output rows."""
        count, n = tokens.shape
        if count != len(lanes) or any(lane.lanes != 1 for lane in lanes):
            raise ValueError(f"{count} rows of tokens need {count} views of one slot each")
        if n == 0:
            return self.model.norm.weight.new_zeros(count, 0, self.config.hidden_size)
        chunk, window = self.config.chunk, self.config.token_window
        # Token ids from window before each lane's open block up to its last new token.
        history = []
        for row, lane in zip(tokens, lanes, strict=True):
            filled = lane.offsets[0] % chunk
            history.append(torch.cat([lane.tokens[0, : window + filled], row.to(torch.int32)]))
            lane.reserve(n)

        x: torch.Tensor = self.model.embeddings(tokens.flatten())
        for index, block in enumerate(self.blocks()):
            inputs = [y.view(count, n, -1) for y in block.attn.project(block.attn_norm(x))]
            mixed = [
                self._advance(block.attn, index, tuple(y[i] for y in inputs), lane, history[i])
                for i, lane in enumerate(lanes)
            ]
            x = block.finish(x, torch.cat(mixed))

        for lane, ids in zip(lanes, history, strict=True):
            open_start = lane.offsets[0] - lane.offsets[0] % chunk
            lane.advance(n)
            end = lane.offsets[0]
            recent = ids[end - end % chunk - open_start :]
            lane.tokens[0, : recent.shape[0]] = recent
        hidden = x.view(count, n, -1)
        for row, lane in zip(hidden[:, -1], lanes, strict=True):
            lane.last_row[0] = row
        return hidden

    def _step(
        self,
        mixer: Mixer[Any],
        index: int,
        inputs: tuple[torch.Tensor, ...],
        view: StateView,
        where: Where,
    ) -> torch.Tensor:
        """Take one row of each lane through a mixer: [lanes, 1, features] each, and returned."""
        if not isinstance(self.config.layers[index], GrowingLayerConfig):
            return mixer.advance(inputs, view.layer(index), where)
        mixed = [
            mixer.advance(
                tuple(y[i : i + 1] for y in inputs), view.lane(i).layer(index), where.lane(i)
            )
            for i in range(view.lanes)
        ]
        return torch.cat(mixed)

    def _advance(
        self,
        mixer: Mixer[Any],
        index: int,
        inputs: tuple[torch.Tensor, ...],
        lane: StateView,
        history: torch.Tensor,
    ) -> torch.Tensor:
        """Take one lane's rows through a mixer: the open block, whole blocks, what is left.

        inputs: [n, features] each. history: token ids from `token_window` before the open block up
        to the last new one. Returns [n, features].
        """
        chunk, window = self.config.chunk, self.config.token_window
        state = lane.layer(index)
        offset, n = lane.offsets[0], inputs[0].shape[0]
        begin = offset - offset % chunk  # of the block that is open
        mixed, done = [], 0

        def advance(count: int) -> None:
            nonlocal done
            at = offset + done
            start = at - at % chunk
            self._renew(mixer, index, lane, start)
            where = Where.of([start], [at % chunk], count, history.device)
            rows = tuple(x[None, done : done + count] for x in inputs)
            mixed.append(mixer.advance(rows, state, where)[0])
            done += count
            if at % chunk + count == chunk:
                oldest = start - begin
                mixer.roll(state, start, history[oldest : oldest + window + chunk])

        if offset > begin:
            advance(min(begin + chunk - offset, n))
        blocks = (n - done) // chunk
        if blocks:
            start, last = offset + done, done + blocks * chunk
            if mixer.absorb_uses_scratch:
                self._renew(mixer, index, lane, start)
            else:
                lane.stale.add(index)
            rows = tuple(x[done:last] for x in inputs)
            oldest = start - begin
            recent = history[oldest : oldest + window + blocks * chunk]
            mixed.append(mixer.absorb(rows, state, start, recent, blocks))
            done = last
        if done < n:
            advance(n - done)
        return torch.cat(mixed)

    def _renew(self, mixer: Mixer[Any], index: int, lane: StateView, start: int) -> None:
        """Prepare a layer's scratch tensors at the block's start, if they are stale."""
        if index in lane.stale:
            mixer.prepare(lane.layer(index), start)
            lane.stale.remove(index)

    def blocks(self) -> list[Block]:
        """The layers, first to last."""
        return [block for block in self.model.layers if isinstance(block, Block)]

    def _head(self, hidden: torch.Tensor) -> torch.Tensor:
        """Project rows to the vocabulary: [..., hidden] -> [..., vocab], fp32 or fp64."""
        weight = self.model.embeddings.weight if self.config.tie_embeddings else self.lm_head.weight
        logits: torch.Tensor = functional.linear(self.model.norm(hidden), weight)
        return logits.to(compute_dtype(self.dtype))

    def _check(self, tokens: torch.Tensor, dimensions: int) -> None:
        if tokens.dim() != dimensions or tokens.dtype != torch.int64:
            shape = tuple(tokens.shape)
            raise ValueError(
                f"tokens must be int64 of {dimensions} dimensions, not {tokens.dtype} {shape}"
            )
        if (
            tokens.numel()
            and not 0 <= int(tokens.min()) <= int(tokens.max()) < self.config.vocab_size
        ):
            raise ValueError(f"token ids must be in 0..{self.config.vocab_size - 1}")
