"""A frozen Llama with local GDN layers in place of some attention layers, over whole sequences.

The teacher is the same weights with full attention everywhere. Only the branches' new parts are
trained: fp32 masters in a bf16 model, whose products run in bf16 under autocast.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from lalte.config import FullConfig
from lalte.init import init_branch
from lalte.layers.local_gdn import LocalGDN
from lalte.model import LaLTE
from lalte.names import branch_parameter_names
from lalte.retrofit.whole import (
    attending,
    attention_inputs,
    branch,
    full_attention,
    window_attention,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from lalte.config import LayerConfig, LocalGDNConfig
    from lalte.model import Block
    from lalte.retrofit.whole import Inputs

HEAD_ROWS = 256  # rows whose logits are in memory at once


class Student:
    """model: every layer is local GDN or full attention. branches: its local GDN layers."""

    def __init__(self, base: LaLTE, layers: Mapping[int, LocalGDNConfig], seed: int) -> None:
        """base: any model whose layers hold attention projections. layers: what to replace."""
        kinds: list[LayerConfig] = [
            layers.get(index, FullConfig()) for index in range(len(base.config.layers))
        ]
        self.model = LaLTE(replace(base.config, layers=tuple(kinds)), base.dtype)
        names = self.model.state_dict().keys()
        weights = {n: x for n, x in base.state_dict().items() if n in names}
        self.model.load_state_dict(weights, strict=False)
        for parameter in self.model.parameters():
            parameter.requires_grad = False
        self.branches = {
            index: block.attn
            for index, block in enumerate(self.model.blocks())
            if isinstance(block.attn, LocalGDN)
        }
        generator = torch.Generator().manual_seed(seed)
        for mixer in self.branches.values():
            init_branch(mixer, generator)
        parameters = dict(self.model.named_parameters())
        self.masters = {n: parameters[n] for n in branch_parameter_names(self.model.config)}
        for parameter in self.masters.values():
            parameter.data = parameter.data.float()
            parameter.requires_grad = True

    def teacher(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the last layer's rows [n, hidden] with full attention. tokens: int64 [n]."""
        return self._run(tokens, lambda _, block, h: _full(block, h))

    def windowed(self, tokens: torch.Tensor, window: int, sinks: int = 0) -> torch.Tensor:
        """Return the rows with the branches' layers cut to a window, and first tokens, instead."""
        return self._run(
            tokens,
            lambda index, block, h: (
                window_attention(attending(block), attention_inputs(block, h), window, sinks=sinks)
                if index in self.branches
                else _full(block, h)
            ),
        )

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the student's rows; gradients reach the masters."""
        return self._run(
            tokens,
            lambda index, block, h: (
                self.branch(index, h)[1] if index in self.branches else _full(block, h)
            ),
        )

    def branch(self, index: int, h: torch.Tensor) -> tuple[Inputs, torch.Tensor]:
        """Return the projections and the mixed rows of a branch. h: [n, hidden], normed."""
        mixer = self.branches[index]
        mixed_precision = self.model.dtype != torch.float32
        context = torch.autocast("cpu", self.model.dtype) if mixed_precision else nullcontext()
        with context:
            inputs = mixer.project(h)
        return inputs, branch(mixer, inputs)

    def export(self, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        """Name the branches' new parts as a model of `dtype` stores them."""
        stored = LaLTE(self.model.config, dtype, "meta").state_dict()
        return {n: x.detach().to(stored[n].dtype) for n, x in self.masters.items()}

    def logits(self, rows: torch.Tensor) -> torch.Tensor:
        """Project the last layer's rows to the vocabulary, fp32."""
        backbone, tied = self.model.model, self.model.config.tie_embeddings
        weight = backbone.embeddings.weight if tied else self.model.lm_head.weight
        return functional.linear(backbone.norm(rows), weight).float()

    @torch.no_grad()
    def loss(self, rows: torch.Tensor, tokens: torch.Tensor) -> float:
        """Mean cross entropy, in nats, of the tokens after each row but the last."""
        total = 0.0
        parts = zip(in_parts(rows[:-1]), in_parts(tokens[1:]), strict=True)
        for part, after in parts:
            total += float(functional.cross_entropy(self.logits(part), after, reduction="sum"))
        return total / (len(tokens) - 1)

    def _run(
        self, tokens: torch.Tensor, mix: Callable[[int, Block, torch.Tensor], torch.Tensor]
    ) -> torch.Tensor:
        x: torch.Tensor = self.model.model.embeddings(tokens)
        for index, block in enumerate(self.model.blocks()):
            x = block.finish(x, mix(index, block, block.attn_norm(x)))
        return x


def in_parts(rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Cut rows so that the logits of one part fit into memory."""
    parts: tuple[torch.Tensor, ...] = rows.split(HEAD_ROWS)  # type: ignore[no-untyped-call]
    return parts


def _full(block: Block, h: torch.Tensor) -> torch.Tensor:
    return full_attention(attending(block), attention_inputs(block, h))
