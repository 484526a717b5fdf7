"""What must hold of a state's content before it may serve anyone.

Bytes that pass a checksum can still be another model's or another bug's. A state is read into a
slot only if everything below holds; otherwise StateError names the array and the reason.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from lalte.config import LocalGDNConfig, LTEConfig, SWAConfig
from lalte.state.arrays import TOKENS, array_specs, layer_prefix, split_heads, to_tensor
from lalte.state.errors import StateError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lalte.config import ModelConfig
    from lalte.state.arrays import Array

Tensors = dict[str, torch.Tensor]


def check_committed(config: ModelConfig, offset: int) -> None:
    """Raise unless `offset` is one at which a state can be stored."""
    if offset < 0 or offset % config.chunk != 0:
        raise StateError(
            "offset", f"must be a multiple of the chunk ({config.chunk}), not {offset}"
        )


def verify(
    config: ModelConfig, dtype: torch.dtype, arrays: Mapping[str, Array], offset: int
) -> Tensors:
    """Return the arrays as tensors, if they are a state of this model at this offset."""
    check_committed(config, offset)
    specs = array_specs(config, dtype, offset)
    names = {spec.name for spec in specs}
    missing, unknown = sorted(names - set(arrays)), sorted(set(arrays) - names)
    if missing or unknown:
        raise StateError("arrays", f"missing {missing}, unknown {unknown}")
    tensors = {spec.name: to_tensor(spec, arrays[spec.name]) for spec in specs}
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise StateError(name, "holds values that are not finite")
    if offset == 0:
        _check_empty(tensors)
    for index, layer in enumerate(config.layers):
        prefix = layer_prefix(index, layer)
        if isinstance(layer, SWAConfig):
            _check_unused(tensors, prefix + "key", layer.window - 1 - offset)
            _check_unused(tensors, prefix + "value", layer.window - 1 - offset)
        elif isinstance(layer, LocalGDNConfig):
            unused = layer.window - 1 - offset
            _check_unused(tensors, prefix + "key", unused, first=layer.sinks)
            _check_unused(tensors, prefix + "value", unused, first=layer.sinks)
        elif isinstance(layer, LTEConfig):
            _check_lte(config, layer, tensors, prefix, offset)
    if config.token_window:
        _check_vocabulary(TOKENS, tensors[TOKENS], config.vocab_size)
        _check_unused(tensors, TOKENS, config.token_window - offset, dim=0)
    return tensors


def _check_empty(tensors: Tensors) -> None:
    for name, tensor in tensors.items():
        empty = -1 if name.endswith("retained_position") else 0
        if bool((tensor != empty).any()):
            raise StateError(name, "is not empty, but the offset is 0")


def _check_unused(tensors: Tensors, name: str, rows: int, dim: int = 1, first: int = 0) -> None:
    """Rows before the stream's start, from row `first` on, hold nothing."""
    tensor = tensors[name]
    unused = tensor.narrow(dim, first, min(max(rows, 0), tensor.shape[dim] - first))
    if bool((unused != 0).any()):
        raise StateError(name, "holds values at positions before the start of the stream")


def _check_vocabulary(name: str, tokens: torch.Tensor, vocab_size: int) -> None:
    if bool(((tokens < 0) | (tokens >= vocab_size)).any()):
        raise StateError(name, f"holds token ids outside 0..{vocab_size - 1}")


def _check_lte(
    config: ModelConfig, layer: LTEConfig, tensors: Tensors, prefix: str, offset: int
) -> None:
    decided = max(offset - layer.window, 0)  # tokens 0 .. decided - 1 have left the window
    for name in ("window_key", "window_value"):
        _check_unused(tensors, prefix + name, layer.window - offset)
    _check_unused(tensors, prefix + "pending_logit", layer.window - offset)
    _check_vocabulary(
        prefix + "retained_token", tensors[prefix + "retained_token"], config.vocab_size
    )
    name = prefix + "retained_position"
    positions = split_heads(layer, tensors[name])
    logits = split_heads(layer, tensors[prefix + "retained_logit"])
    for head, (position, logit) in enumerate(zip(positions, logits, strict=True)):
        used = int((position >= 0).sum())
        held, rest = position[:used], position[used:]
        if bool((rest != -1).any()) or bool((held < 0).any()):
            raise StateError(name, f"of head {head} has unused rows between used ones")
        if bool((held.diff() <= 0).any()):
            raise StateError(name, f"of head {head} does not rise")
        if bool((held >= decided).any()):
            raise StateError(name, f"of head {head} holds a token that has not left the window")
        sinks = min(layer.sinks, decided, len(position))
        if not torch.equal(held[:sinks], torch.arange(sinks)):
            raise StateError(name, f"of head {head} lacks one of the first {sinks} tokens")
        if bool((logit[:used][held >= layer.sinks] <= 0).any()):
            raise StateError(prefix + "retained_logit", f"of head {head} keeps a dropped token")
    unused = tensors[name] < 0
    for part in ("key", "value", "logit", "token"):
        if bool((tensors[f"{prefix}retained_{part}"][unused] != 0).any()):
            raise StateError(f"{prefix}retained_{part}", "holds values in unused rows")
