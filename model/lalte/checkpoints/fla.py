"""Folders of flash-linear-attention and of Idiap's hybrid models: read, written, converted.

Their names are ours (`lalte.names`), so no tensor is renamed or reshaped. LTE checkpoints hold two
buffers besides, per LTE layer and KV head: the weight of the sparsity penalty, and how many tokens
were kept of late. They are the training's, not the model's: a conversion leaves them out, and an
export of a converted model writes zeros, from which the reference's training starts.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file

from lalte.checkpoints.convert import PLAIN_NOTE, turn_format_of
from lalte.checkpoints.fla_config import MODEL_TYPES, read_settings, write_settings
from lalte.checkpoints.folder import new_folder, write_model_folder
from lalte.checkpoints.hashing import sha256_hex
from lalte.checkpoints.hub_folder import (
    CONFIG,
    TOKENIZER,
    TOKENIZER_CONFIG,
    WEIGHTS,
    load_weights,
    read_json,
    read_text_files,
    weight_files,
)
from lalte.checkpoints.llama import check_tensors
from lalte.checkpoints.load import load_model
from lalte.checkpoints.manifest import TOKENIZER_FILE, Manifest, Provenance
from lalte.config import LTEConfig
from lalte.model import LaLTE
from lalte.text import Tokenizer

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

    from lalte.checkpoints.fla_config import Serving
    from lalte.config import ModelConfig

TRAINED_ELSEWHERE = "as trained elsewhere"
TRAINING_BUFFERS = ("model.l1_lambda", "model.num_kept")


@dataclass(frozen=True, slots=True)
class FLACheckpoint:
    """A folder's content.

    settings: config.json as it is. config: the same, as our model. tensors: the model's parameters.
    buffers: what only training needs, by name.
    """

    settings: Mapping[str, Any]
    config: ModelConfig
    tensors: Mapping[str, Tensor]
    buffers: Mapping[str, Tensor]


def is_fla(source: Path) -> bool:
    """Whether `source` is such a folder, whatever it is worth."""
    path = source / CONFIG
    return path.is_file() and read_json(path).get("model_type") in MODEL_TYPES


def tensor_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that such a folder holds."""
    shapes = {name: tuple(x.shape) for name, x in LaLTE(config, device="meta").state_dict().items()}
    return shapes | dict.fromkeys(_buffer_names(config), _buffer_shape(config))


def _buffer_names(config: ModelConfig) -> tuple[str, ...]:
    return TRAINING_BUFFERS if _lte_layers(config) else ()


def _buffer_shape(config: ModelConfig) -> tuple[int, int]:
    return _lte_layers(config), config.num_kv_heads


def _lte_layers(config: ModelConfig) -> int:
    return sum(isinstance(layer, LTEConfig) for layer in config.layers)


def read_fla(folder: Path, serving: Serving | None = None) -> FLACheckpoint:
    """Read a folder with config.json and safetensors.

    Raises CheckpointError that names every setting or tensor that does not fit.
    """
    settings = read_json(folder / CONFIG)
    config = read_settings(folder / CONFIG, settings, serving)
    tensors = load_weights(weight_files(folder))
    check_tensors(
        str(folder), tensor_shapes(config), {name: tuple(x.shape) for name, x in tensors.items()}
    )
    buffers = {name: tensors.pop(name) for name in _buffer_names(config)}
    return FLACheckpoint(settings, config, tensors, buffers)


def write_fla(
    folder: Path, checkpoint: FLACheckpoint, texts: Mapping[str, str] | None = None
) -> None:
    """Write what `read_fla` reads. texts: further files by name, the tokenizer's for instance.

    Raises CheckpointError when `folder` exists.
    """
    with new_folder(folder) as draft:
        settings = json.dumps(dict(checkpoint.settings), indent=2, sort_keys=True) + "\n"
        for name, text in {CONFIG: settings, **(texts or {})}.items():
            (draft / name).write_text(text, encoding="utf-8")
        everything = {**checkpoint.tensors, **checkpoint.buffers}
        tensors = {name: tensor.contiguous() for name, tensor in everything.items()}
        save_file(tensors, draft / WEIGHTS, metadata={"format": "pt"})
        (draft / WEIGHTS).chmod(0o644)


def convert_fla(
    source: Path,
    dest: Path,
    *,
    serving: Serving | None = None,
    origin: str = "",
    license_id: str = "",
    source_files: Mapping[str, str] | None = None,
) -> Manifest:
    """Convert the folder `source`, its tokenizer included, into the model folder `dest`.

    origin, license_id, source_files: what the manifest says. Raises CheckpointError, or TextError
    for a tokenizer that cannot be served.
    """
    checkpoint = read_fla(source, serving)
    text = read_text_files(source)
    tokenizer = Tokenizer.from_json(text.tokenizer_json)
    turn_format = turn_format_of(text, tokenizer)
    return write_model_folder(
        dest,
        config=checkpoint.config,
        tensors=checkpoint.tensors,
        tokenizer_json=text.tokenizer_json,
        turn_format=turn_format,
        provenance=Provenance(
            name=dest.name,
            source=origin or source.name,
            source_sha256=sha256_hex(weight_files(source)),
            routers=TRAINED_ELSEWHERE,
            license=license_id,
            notes=(PLAIN_NOTE,) if turn_format.origin == "plain" else (),
            source_files=source_files or {},
        ),
    )


def export_fla(source: Path, dest: Path) -> None:
    """Write the model folder `source` as such a folder.

    Raises CheckpointError, also where the format has no such model.
    """
    loaded = load_model(source)
    tokenizer_json = (source / TOKENIZER_FILE).read_text(encoding="utf-8")
    config = loaded.config
    settings = write_settings(str(source), config)
    zeros = {name: torch.zeros(_buffer_shape(config)) for name in _buffer_names(config)}
    checkpoint = FLACheckpoint(settings, config, loaded.model.state_dict(), zeros)
    write_fla(dest, checkpoint, {TOKENIZER: tokenizer_json, TOKENIZER_CONFIG: "{}\n"})
