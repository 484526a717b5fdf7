"""A slot as named arrays: what is stored, in which order, and how tensors turn into bytes."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import prod
from typing import TYPE_CHECKING

import torch

from lalte.config import GDNConfig, GrowingLayerConfig, LocalGDNConfig, LTEConfig
from lalte.state.errors import StateError
from lalte.state.tensors import (
    FullState,
    GDNState,
    LocalGDNState,
    LTEState,
    NSAState,
    budget_rows,
    compute_dtype,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lalte.config import FixedLayerConfig, LayerConfig, ModelConfig
    from lalte.state.tensors import LayerState

_DTYPES = {
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
    "float64": torch.float64,
    "int64": torch.int64,
    "int32": torch.int32,
}
_DTYPE_NAMES = {dtype: name for name, dtype in _DTYPES.items()}

TOKENS = "tokens"  # the ids of the last `token_window` tokens, shared by all layers
SEGMENT = 1024  # tokens of a growing layer's arrays
LAST_ROW = "last_row"  # the last layer's output for the last token


@dataclass(frozen=True)
class Array:
    """Raw bytes of a tensor: little-endian, C order. `dtype` is torch's name for it."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes | memoryview


@dataclass(frozen=True)
class ArraySpec:
    """What an array of a config must be."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize


def array_specs(config: ModelConfig, dtype: torch.dtype, offset: int) -> list[ArraySpec]:
    """Return every array of a session's state, in storage order.

    `offset` matters only with layers whose state grows. Their arrays come last, by segments of the
    stream, so that all bytes before the last segment are those of a shorter stream.
    """
    specs = [
        spec
        for index, layer in enumerate(config.layers)
        if not isinstance(layer, GrowingLayerConfig)
        for spec in _layer_specs(config, index, layer, dtype)
    ]
    if config.token_window:
        specs.append(ArraySpec(TOKENS, torch.int32, (config.token_window,)))
    specs.append(ArraySpec(LAST_ROW, dtype, (config.hidden_size,)))
    return specs + _growing_specs(config, dtype, offset)


def growing_nbytes(config: ModelConfig, dtype: torch.dtype, offset: int) -> int:
    """Return how many bytes at the end of a stored state belong to layers that grow."""
    return sum(spec.nbytes for spec in _growing_specs(config, dtype, offset))


def nbytes(config: ModelConfig, dtype: torch.dtype, offset: int = 0) -> int:
    """Return the exact size of a session's stored state, in bytes, without headers."""
    return sum(spec.nbytes for spec in array_specs(config, dtype, offset))


def layer_prefix(index: int, layer: LayerConfig) -> str:
    return f"layers.{index}.{layer.kind}."


def _growing_specs(config: ModelConfig, dtype: torch.dtype, offset: int) -> list[ArraySpec]:
    return [
        ArraySpec(name, dtype, (config.num_kv_heads, last - first, config.head_dim))
        for number, (first, last) in enumerate(_segments(offset))
        for index, layer in enumerate(config.layers)
        if isinstance(layer, GrowingLayerConfig)
        for name in _segment_names(layer_prefix(index, layer), number)
    ]


def _segments(offset: int) -> list[tuple[int, int]]:
    """Cut a stream of `offset` tokens: all segments but the last are full."""
    return [(n, min(n + SEGMENT, offset)) for n in range(0, offset, SEGMENT)]


def _segment_names(prefix: str, number: int) -> tuple[str, str]:
    return f"{prefix}key.{number}", f"{prefix}value.{number}"


def _layer_specs(
    config: ModelConfig, index: int, layer: FixedLayerConfig, dtype: torch.dtype
) -> list[ArraySpec]:
    compute = compute_dtype(dtype)
    heads, d = config.num_kv_heads, config.head_dim
    shapes: list[tuple[str, torch.dtype, tuple[int, ...]]]
    if isinstance(layer, GDNConfig):
        channels = layer.num_heads * (2 * layer.head_k_dim + layer.head_v_dim)
        shapes = [
            ("recurrent", compute, (layer.num_heads, layer.head_k_dim, layer.head_v_dim)),
            ("tail", dtype, (layer.conv_kernel - 1, channels)),
        ]
    elif isinstance(layer, LocalGDNConfig):
        seen = (heads, layer.sinks + layer.window - 1, d)
        shapes = [
            ("recurrent", compute, (config.num_heads, d, d)),
            ("tail", dtype, (layer.conv_kernel - 1, 3 * config.num_heads * d)),
            ("key", dtype, seen),
            ("value", dtype, seen),
        ]
    elif isinstance(layer, LTEConfig):
        # Heads one after the other, each with its own budget: nothing padded is stored.
        kept = sum(layer.budgets)
        shapes = [
            ("window_key", dtype, (heads, layer.window, d)),
            ("window_value", dtype, (heads, layer.window, d)),
            ("pending_logit", compute, (heads, layer.reach)),
            ("retained_key", dtype, (kept, d)),
            ("retained_value", dtype, (kept, d)),
            ("retained_logit", compute, (kept,)),
            ("retained_position", torch.int64, (kept,)),
            ("retained_token", torch.int32, (kept,)),
        ]
    else:
        rows = layer.window - 1
        shapes = [("key", dtype, (heads, rows, d)), ("value", dtype, (heads, rows, d))]
    prefix = layer_prefix(index, layer)
    return [ArraySpec(prefix + name, kind, shape) for name, kind, shape in shapes]


def layer_tensors(
    index: int, layer: LayerConfig, state: LayerState, chunk: int, offset: int
) -> dict[str, torch.Tensor]:
    """Return the persisted tensors of a one-slot state, by array name. LTE's are packed copies."""
    prefix = layer_prefix(index, layer)
    recurrent: dict[str, torch.Tensor] = {}
    if isinstance(state, GDNState | LocalGDNState):
        recurrent = {prefix + "recurrent": state.recurrent[0], prefix + "tail": state.tail[0]}
    if isinstance(state, GDNState):
        return recurrent
    if isinstance(state, LTEState):
        assert isinstance(layer, LTEConfig)  # noqa: S101 - a state is made from its layer
        window = slice(budget_rows(layer), budget_rows(layer) + layer.window)
        packed = {
            name: torch.cat([getattr(state, name)[0, h, :b] for h, b in enumerate(layer.budgets)])
            for name in ("key", "value", "logit", "position", "token")
        }
        return {
            prefix + "window_key": state.key[0, :, window],
            prefix + "window_value": state.value[0, :, window],
            prefix + "pending_logit": state.ready[0, :, : layer.reach],
            **{f"{prefix}retained_{name}": x for name, x in packed.items()},
        }
    if isinstance(state, FullState | NSAState):
        segments = {}
        for number, (first, last) in enumerate(_segments(offset)):
            key, value = _segment_names(prefix, number)
            segments[key] = state.key[0, :, first:last]
            segments[value] = state.value[0, :, first:last]
        return segments
    rows = state.key.shape[2] - chunk
    kept = {prefix + "key": state.key[0, :, :rows], prefix + "value": state.value[0, :, :rows]}
    return recurrent | kept


def write_layer(
    index: int,
    layer: LayerConfig,
    state: LayerState,
    tensors: Mapping[str, torch.Tensor],
    offset: int,
) -> None:
    """Write verified tensors into a cleared one-slot state: the inverse of `layer_tensors`."""
    prefix = layer_prefix(index, layer)
    if isinstance(state, LTEState):
        assert isinstance(layer, LTEConfig)  # noqa: S101 - a state is made from its layer
        window = slice(budget_rows(layer), budget_rows(layer) + layer.window)
        state.key[0, :, window] = tensors[prefix + "window_key"]
        state.value[0, :, window] = tensors[prefix + "window_value"]
        state.ready[0, :, : layer.reach] = tensors[prefix + "pending_logit"]
        for name in ("key", "value", "logit", "position", "token"):
            packed = tensors[f"{prefix}retained_{name}"]
            for head, kept in enumerate(split_heads(layer, packed)):
                getattr(state, name)[0, head, : kept.shape[0]] = kept
        return
    if isinstance(state, GDNState | LocalGDNState):
        state.recurrent[0] = tensors[prefix + "recurrent"]
        state.tail[0] = tensors[prefix + "tail"]
    if isinstance(state, FullState | NSAState):
        for number, (first, last) in enumerate(_segments(offset)):
            key, value = _segment_names(prefix, number)
            state.key[0, :, first:last] = tensors[key]
            state.value[0, :, first:last] = tensors[value]
    elif not isinstance(state, GDNState):
        rows = tensors[prefix + "key"].shape[1]
        state.key[0, :, :rows] = tensors[prefix + "key"]
        state.value[0, :, :rows] = tensors[prefix + "value"]


def split_heads(layer: LTEConfig, packed: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return each KV head's rows of an array that packs them one after the other."""
    bounds = list(accumulate(layer.budgets, initial=0))
    return tuple(packed[a:b] for a, b in pairwise(bounds))


def to_array(tensor: torch.Tensor) -> Array:
    data = tensor.detach().cpu().contiguous()
    raw = data.flatten().view(torch.uint8).numpy().tobytes() if data.numel() else b""
    return Array(_DTYPE_NAMES[data.dtype], tuple(data.shape), raw)


def to_tensor(spec: ArraySpec, array: Array) -> torch.Tensor:
    """Return an array's own copy as a tensor, once it is what `spec` says; StateError if not."""
    wanted = _DTYPE_NAMES[spec.dtype]
    if array.dtype != wanted:
        raise StateError(spec.name, f"is {array.dtype}, but this model's state holds {wanted}")
    if tuple(array.shape) != spec.shape:
        raise StateError(spec.name, f"has shape {tuple(array.shape)}, not {spec.shape}")
    size = len(memoryview(array.data).cast("B"))
    if size != spec.nbytes:
        raise StateError(spec.name, f"has {size} bytes, not {spec.nbytes}")
    if size == 0:
        return torch.empty(spec.shape, dtype=spec.dtype)
    return torch.frombuffer(bytearray(array.data), dtype=spec.dtype).view(spec.shape)
