"""Which layers the memory of facts hangs on, and how many slots each gets for it.

The oracle keeps the tokens that tell facts, and nothing else, beyond the window. Then one layer
after the other forgets them alone: what this costs the answers says what the layer's memory is
worth. In SmolLM2-135M four layers of thirty carry nearly all of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from lalte.config import LTEConfig
from lalte.layers.attention import Attention
from lalte.model import Block
from lalte.retrofit.data import NO_FACT
from lalte_kernels import rope

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from lalte.config import ModelConfig
    from lalte.model import LaLTE
    from lalte.retrofit.data import MemoryStream

_STEP = 16  # budgets are multiples of it


@dataclass(frozen=True)
class Ablation:
    """Mean log probability of the answers' value tokens, in nats.

    remembering: when all the layers keep facts. without: per layer, when it alone forgets them.
    """

    remembering: float
    without: dict[int, float]

    @property
    def costs(self) -> dict[int, float]:
        """What each layer's forgetting costs, in nats a token."""
        return {layer: self.remembering - found for layer, found in self.without.items()}


@torch.no_grad()
def ablate(
    teacher: LaLTE,
    streams: Iterable[MemoryStream],
    layers: Sequence[int],
    window: int,
    sinks: int,
) -> Ablation:
    """Measure each of `layers`; the others see the window and the sinks alone.

    teacher: every layer attention. Takes a forward pass and, for each layer, the part of one above.
    """
    tokens = 0
    remembering, without = 0.0, dict.fromkeys(layers, 0.0)
    for stream in streams:
        near, far = _visible(stream, window, sinks)
        answers = (stream.value & (torch.arange(len(stream.value)) >= stream.told)).nonzero()[:, 0]
        x: torch.Tensor = teacher.model.embeddings(stream.tokens)
        entering = []
        for index, block in enumerate(_blocks(teacher)):
            entering.append(x)
            x = _through(block, x, far if index in layers else near)
        remembering += _log_probability(teacher, x, stream, answers)
        for layer in layers:
            x = entering[layer]
            for index, block in enumerate(_blocks(teacher)[layer:], layer):
                x = _through(block, x, far if index in layers and index != layer else near)
            without[layer] += _log_probability(teacher, x, stream, answers)
        tokens += len(answers)
    return Ablation(
        remembering / tokens, {layer: found / tokens for layer, found in without.items()}
    )


def allocate(costs: Mapping[int, float], mean: int, least: int, most: int) -> dict[int, int]:
    """Divide `mean` slots per layer by what forgetting costs, at least and at most so many each.

    Forgetting cannot truly help: the largest gain seen is taken for the noise of all. Above it,
    slots go by the square root of the cost. Sums to at most mean * len(costs).
    """
    noise = max(0.0, -min(costs.values()))
    weights = {layer: math.sqrt(max(cost - noise, 0)) for layer, cost in costs.items()}
    budgets: dict[int, float] = dict.fromkeys(costs, least)
    left = float((mean - least) * len(costs))
    open_layers = {layer for layer in costs if weights[layer] > 0} or set(costs)
    # What is left over by layers that are full goes to the others.
    while left >= 1 and open_layers:
        total = sum(weights[layer] for layer in open_layers)
        shares = {
            layer: left * (weights[layer] / total if total else 1 / len(open_layers))
            for layer in sorted(open_layers)
        }
        for layer, share in shares.items():
            given = min(share, most - budgets[layer])
            budgets[layer] += given
            left -= given
            if budgets[layer] >= most:
                open_layers.discard(layer)
    return {layer: max(int(budget) // _STEP * _STEP, least) for layer, budget in budgets.items()}


def with_budgets(config: ModelConfig, budgets: Mapping[int, int]) -> ModelConfig:
    """Return the model with these budgets in its LTE layers, the same for all KV heads of each."""
    layers = tuple(
        replace(layer, budgets=(budgets[index],) * config.num_kv_heads)
        if isinstance(layer, LTEConfig)
        else layer
        for index, layer in enumerate(config.layers)
    )
    return replace(config, layers=layers)


def _visible(stream: MemoryStream, window: int, sinks: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What queries see of keys, bool [n, n]: sinks and window; and facts beside them."""
    position = torch.arange(len(stream.tokens))
    query = position[:, None]
    past = position <= query
    near = past & ((position >= query - window) | (position < sinks))
    told = (stream.fact != NO_FACT) & (position < stream.told)
    return near, near | (past & told)


def _through(block: Block, x: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
    """One layer over a whole stream. x: [n, hidden]."""
    attn = block.attn
    if not isinstance(attn, Attention):
        raise TypeError(f"the teacher needs attention in every layer, not {type(attn)}")
    position = torch.arange(len(x))

    def mix(inputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
        q, k, v = (y.view(len(x), -1, attn.head_dim).transpose(0, 1) for y in inputs)
        q, k = rope(q, position, attn.theta), rope(k, position, attn.theta)
        mixed = functional.scaled_dot_product_attention(
            q[None], k[None], v[None], attn_mask=visible, enable_gqa=True
        )[0]
        return mixed.transpose(0, 1).flatten(1)

    out: torch.Tensor = block(x, mix)
    return out


def _log_probability(
    teacher: LaLTE, x: torch.Tensor, stream: MemoryStream, answers: torch.Tensor
) -> float:
    """Sum of the log probabilities of the tokens at `answers`."""
    model = teacher.model
    head = model.embeddings if teacher.config.tie_embeddings else teacher.lm_head
    logits = functional.linear(model.norm(x[answers - 1]), head.weight).float()
    logs = logits.log_softmax(dim=-1).gather(1, stream.tokens[answers, None])
    return float(logs.sum())


def _blocks(teacher: LaLTE) -> list[Block]:
    return [block for block in teacher.model.layers if isinstance(block, Block)]
