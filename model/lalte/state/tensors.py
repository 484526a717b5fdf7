"""The tensors of each kind of layer, with one slot per row of their first dimension.

Key and value buffers hold sections of rows one after the other: [retained | window | block] for
LTE, [window | block] for sliding windows, the whole stream for full attention. The block
is the open one, of up to C tokens; it is empty at a committed offset t = kC. The window is kept in
age order and ends at t; rows at positions before the stream's start are zero and masked.

    key      before RoPE (after it where the state grows)           persisted
    value    model dtype                                            persisted
    rotated  the keys after RoPE, angles relative to t              scratch, a function of the rest
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from lalte.config import GDNConfig, LocalGDNConfig, LTEConfig

if TYPE_CHECKING:
    from lalte.config import FixedLayerConfig, ModelConfig


class GDNState(NamedTuple):
    """Gated DeltaNet. recurrent: S, [slots, heads, d_k, d_v], fp32 (fp64 in fp64 models).

    tail: [slots, conv_kernel - 1, channels of q, k and v], the short convolution's last inputs.
    """

    recurrent: torch.Tensor
    tail: torch.Tensor


class LocalGDNState(NamedTuple):
    """A Gated DeltaNet branch, sinks and a window.

    recurrent, tail: as in GDNState. key, rotated, value: [slots, kv_heads, s + w - 1 + C,
    head_dim], the stream's first s tokens, those before the block, and the block.
    """

    recurrent: torch.Tensor
    tail: torch.Tensor
    key: torch.Tensor
    rotated: torch.Tensor
    value: torch.Tensor


class LTEState(NamedTuple):
    """LTE attention. key, rotated, value: [slots, kv_heads, B + w + C, head_dim].

    logit: [slots, kv_heads, B], fp32; position: int64 and token: int32, the same shape: the
    retained tokens, oldest first, unused rows having position -1.
    ready: [slots, kv_heads, C + reach], the logits of tokens t - w, t - w + 1, ..; the first
    `reach` cannot be computed from the window and are persisted, the rest is scratch.
    visible: bool [slots, kv_heads, 1 or C, B + w], what the block's queries see of the past (one
    row for all of them when the eviction grid is the chunk); scratch.
    """

    key: torch.Tensor
    rotated: torch.Tensor
    value: torch.Tensor
    logit: torch.Tensor
    position: torch.Tensor
    token: torch.Tensor
    ready: torch.Tensor
    visible: torch.Tensor


class SWAState(NamedTuple):
    """Sliding-window attention. Each [slots, kv_heads, w - 1 + C, head_dim]."""

    key: torch.Tensor
    rotated: torch.Tensor
    value: torch.Tensor


class FullState(NamedTuple):
    """Full attention, one slot. key, value: [1, kv_heads, capacity, head_dim]; see `growing`.

    Keys are stored after RoPE, turned by their position in the stream: angles are computed in fp64,
    and what has been turned once needs no second turn at the next block.
    """

    key: torch.Tensor
    value: torch.Tensor


class NSAState(NamedTuple):
    """Native sparse attention, one slot. key, value: as in FullState.

    pooled_key, pooled_value: [1, kv_heads, blocks, head_dim], complete blocks' means; scratch.
    """

    key: torch.Tensor
    value: torch.Tensor
    pooled_key: torch.Tensor
    pooled_value: torch.Tensor


FixedState = GDNState | LocalGDNState | LTEState | SWAState
GrowingState = FullState | NSAState
LayerState = FixedState | GrowingState


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return what sums, scores and recurrent states are held in for a model of `dtype`."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def budget_rows(layer: LTEConfig) -> int:
    """B, the rows of the retained section: the largest budget of the layer's heads."""
    return max(layer.budgets)


def allocate_layer(
    config: ModelConfig,
    layer: FixedLayerConfig,
    slots: int,
    dtype: torch.dtype,
    device: torch.device,
) -> FixedState:
    """Return the tensors of a layer whose state has a fixed size, at the start of a stream."""

    def zeros(*shape: int, kind: torch.dtype = dtype) -> torch.Tensor:
        return torch.zeros(slots, *shape, dtype=kind, device=device)

    compute = compute_dtype(dtype)
    heads, d, chunk = config.num_kv_heads, config.head_dim, config.chunk
    if isinstance(layer, GDNConfig):
        channels = layer.num_heads * (2 * layer.head_k_dim + layer.head_v_dim)
        recurrent = zeros(layer.num_heads, layer.head_k_dim, layer.head_v_dim, kind=compute)
        return GDNState(recurrent, zeros(layer.conv_kernel - 1, channels))
    if isinstance(layer, LocalGDNConfig):
        recurrent = zeros(config.num_heads, d, d, kind=compute)
        tail = zeros(layer.conv_kernel - 1, 3 * config.num_heads * d)
        rows = layer.sinks + layer.window - 1 + chunk
        return LocalGDNState(recurrent, tail, *(zeros(heads, rows, d) for _ in range(3)))
    if isinstance(layer, LTEConfig):
        kept = budget_rows(layer)
        past = kept + layer.window
        queries = chunk if config.eviction_grid == "token" else 1
        return LTEState(
            key=zeros(heads, past + chunk, d),
            rotated=zeros(heads, past + chunk, d),
            value=zeros(heads, past + chunk, d),
            logit=zeros(heads, kept, kind=compute),
            position=zeros(heads, kept, kind=torch.int64) - 1,
            token=zeros(heads, kept, kind=torch.int32),
            ready=zeros(heads, chunk + layer.reach, kind=compute),
            visible=zeros(heads, queries, past, kind=torch.bool),
        )
    return SWAState(*(zeros(heads, layer.window - 1 + chunk, d) for _ in range(3)))


def narrow(state: FixedState, first: int, last: int) -> FixedState:
    """Return the same tensors for slots [first, last), without copying."""
    return type(state)(*(x[first:last] for x in state))


def clear(state: FixedState) -> None:
    """Put every slot of `state` back to the start of a stream."""
    for name, tensor in zip(state._fields, state, strict=True):
        tensor.fill_(-1 if name == "position" else 0)
