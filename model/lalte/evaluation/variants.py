"""Other memories on the same weights, of the same bytes: what a result is compared with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch

from lalte.config import FullConfig, GDNConfig, LocalGDNConfig, LTEConfig, SWAConfig
from lalte.evaluation.baselines import AttendedRetention, RandomRetention
from lalte.evaluation.errors import EvaluationError
from lalte.model import Block, LaLTE
from lalte.state import StateSlots, nbytes
from lalte.state.tensors import LTEState, budget_rows

if TYPE_CHECKING:
    from lalte.config import ModelConfig

Baseline = Literal["full", "window", "random", "attended", "local"]
BASELINES: tuple[Baseline, ...] = get_args(Baseline)

_LOCAL_WINDOW = 64
_LAYER_STRIDE = 4096  # more than any model has layers


@dataclass(frozen=True)
class Memory:
    """A model whose states have a fixed size. state_bytes: of one, as it would be stored."""

    model: LaLTE
    state_bytes: int

    def allocate(self, count: int) -> StateSlots:
        """Empty states, with what a baseline needs to keep beside them."""
        slots = StateSlots.allocate(self.model.config, count, self.model.dtype)
        for index, block in enumerate(self.model.model.layers):
            state = slots.layers[index]
            if (
                isinstance(block, Block)
                and isinstance(block.attn, AttendedRetention)
                and isinstance(state, LTEState)
            ):
                slots.layers[index] = block.attn.widen(state)
        return slots


def as_it_is(model: LaLTE) -> Memory:
    """The model's own memory."""
    return Memory(model, nbytes(model.config, model.dtype))


def full_attention(model: LaLTE) -> LaLTE:
    """The same weights with full attention in every layer.

    Raises EvaluationError for layers that never were attention.
    """
    for index, layer in enumerate(model.config.layers):
        if isinstance(layer, GDNConfig):
            raise EvaluationError(
                "full", f"layer {index} is a {layer.kind} layer, which has no attention to widen"
            )
    return _rebuilt(model, layers=(FullConfig(),) * len(model.config.layers))


def sinks_and_window(model: LaLTE) -> Memory:
    """Sinks and a window that takes the retained tokens' room."""
    layers = tuple(
        replace(
            layer,
            window=layer.window + budget_rows(layer) - layer.sinks,
            budgets=(layer.sinks,) * len(layer.budgets),
        )
        if isinstance(layer, LTEConfig)
        else layer
        for layer in model.config.layers
    )
    return as_it_is(_rebuilt(model, layers=layers))


def random_retention(model: LaLTE, seed: int) -> Memory:
    """Sinks, window and tokens drawn at random, in the same slots."""
    other = _rebuilt(model)
    for index, block in enumerate(other.model.layers):
        layer = other.config.layers[index]
        if isinstance(block, Block) and isinstance(layer, LTEConfig):
            stream = seed * _LAYER_STRIDE + index
            mixer = RandomRetention(other.config, layer, other.dtype, _device(other), stream)
            mixer.load_state_dict(block.attn.state_dict())
            block.attn = mixer
    return as_it_is(other)


def attended_retention(model: LaLTE) -> Memory:
    """Sinks, window and the tokens that were most attended to so far, in the same slots.

    The sums of attention, 4 bytes for each row and head, are not counted.
    """
    other = _rebuilt(model)
    for index, block in enumerate(other.model.layers):
        layer = other.config.layers[index]
        if isinstance(block, Block) and isinstance(layer, LTEConfig):
            mixer = AttendedRetention(other.config, layer, other.dtype, _device(other))
            mixer.load_state_dict(block.attn.state_dict())
            block.attn = mixer
    return as_it_is(other)


def local_windows(model: LaLTE) -> Memory:
    """GDN layers that stand on attention's projections see a window of 64 and nothing else.

    Raises EvaluationError where there are none.
    """
    if not any(isinstance(layer, LocalGDNConfig) for layer in model.config.layers):
        raise EvaluationError("local", "this model has no GDN layers in attention's place")
    layers = tuple(
        SWAConfig(window=_LOCAL_WINDOW) if isinstance(layer, LocalGDNConfig) else layer
        for layer in model.config.layers
    )
    return as_it_is(_rebuilt(model, layers=layers))


def at_positions(model: LaLTE, positions: str) -> LaLTE:
    """The same weights with retained tokens said to stand elsewhere.

    positions: "absolute" for where they do stand, or the span in tokens that they are packed to.
    Raises EvaluationError for anything else, ConfigError for a span that is too small.
    """
    if positions == "absolute":
        return _rebuilt(model, positions="absolute")
    if not positions.isdecimal():
        raise EvaluationError(
            "positions", f"{positions!r} is neither absolute nor a span in tokens"
        )
    return _rebuilt(model, positions="bounded", position_span=int(positions))


def within_bytes(model: LaLTE, state_bytes: int) -> LaLTE:
    """The same weights with budgets cut, each by the same factor, until a state fits.

    Raises EvaluationError where the windows alone are too large.
    """
    largest = max(
        (max(layer.budgets) for layer in model.config.layers if isinstance(layer, LTEConfig)),
        default=0,
    )
    for room in range(largest, 0, -1):
        layers = tuple(
            replace(
                layer,
                budgets=tuple(max(b * room // largest, layer.sinks) for b in layer.budgets),
            )
            if isinstance(layer, LTEConfig)
            else layer
            for layer in model.config.layers
        )
        config = replace(model.config, layers=layers)
        if nbytes(config, model.dtype) <= state_bytes:
            return model if config == model.config else _rebuilt(model, layers=layers)
    raise EvaluationError(
        "state bytes", f"{state_bytes} is less than windows and other layers need; allow more"
    )


def key_value_bytes(config: ModelConfig, dtype: torch.dtype, tokens: int) -> int:
    """What full attention holds after so many tokens."""
    row = 2 * config.num_kv_heads * config.head_dim * torch.finfo(dtype).bits // 8
    return len(config.layers) * row * tokens


def _rebuilt(model: LaLTE, **changes: Any) -> LaLTE:
    """The same tensors under a changed configuration, which needs no others."""
    other = LaLTE(replace(model.config, **changes), model.dtype, _device(model))
    tensors = model.state_dict()
    other.load_state_dict({name: tensors[name] for name in other.state_dict()})
    return other


def _device(model: LaLTE) -> torch.device:
    return model.model.norm.weight.device
