"""What of a folder fits: its settings, each of its tensors by name and shape, its tokenizer.

Reads the headers of the weights only, so that it takes no memory and little time at any size.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lalte.checkpoints.errors import CheckpointError, ModelNotFound
from lalte.checkpoints.fla import tensor_shapes
from lalte.checkpoints.fla_config import MODEL_TYPES, read_settings
from lalte.checkpoints.folder import stored_tensors
from lalte.checkpoints.hub_folder import (
    CONFIG,
    read_json,
    read_text_files,
    weight_files,
    weight_shapes,
)
from lalte.checkpoints.llama import Misfits, Shapes
from lalte.checkpoints.manifest import MANIFEST_FILE, verify_folder
from lalte.checkpoints.safetensors import read_dimensions
from lalte.config import ConfigError, ModelConfig
from lalte.text import TextError, Tokenizer

if TYPE_CHECKING:
    from pathlib import Path

    from lalte.checkpoints.fla_config import Serving


@dataclass(frozen=True, slots=True)
class Finding:
    """part: what was looked at. fits: whether it can be used. detail: what it is, or why not."""

    part: str
    fits: bool
    detail: str


def verify(folder: Path, serving: Serving | None = None) -> list[Finding]:
    """Look at a model folder of ours, of Llama's architecture, of FLA's or of Idiap's.

    serving: as in `convert_fla`. Raises ModelNotFound where there is no config.json.
    """
    if not (folder / CONFIG).is_file():
        raise ModelNotFound(folder)
    ours = (folder / MANIFEST_FILE).is_file()
    findings = [_manifest(folder)] if ours else []
    try:
        what, expected = _expected(folder, ours, serving)
    except CheckpointError as error:
        return [*findings, Finding(CONFIG, False, error.reason)]
    findings.append(Finding(CONFIG, True, what))
    findings += _weights(folder, expected)
    findings.append(_tokenizer(folder, ours))
    return findings


def _manifest(folder: Path) -> Finding:
    try:
        manifest = verify_folder(folder)
    except CheckpointError as error:
        return Finding("manifest", False, f"{error.path}: {error.reason}")
    return Finding("manifest", True, f"every file is as it was written, {manifest.fingerprint}")


def _expected(folder: Path, ours: bool, serving: Serving | None) -> tuple[str, Shapes]:
    """Return what config.json describes, in words and as tensors. Raises CheckpointError."""
    path = folder / CONFIG
    if ours:
        try:
            config = ModelConfig.from_json(path.read_text(encoding="utf-8"))
        except ConfigError as error:
            raise CheckpointError(path, str(error)) from error
        stored = stored_tensors(config)
        return _describe(config), {name: tuple(x.shape) for name, x in stored.items()}
    settings: dict[str, Any] = read_json(path)
    model_type = settings.get("model_type")
    if model_type == "llama":
        dimensions = read_dimensions(folder, settings)
        return f"llama, {dimensions.num_layers} layers", dimensions.tensor_shapes()
    if model_type not in MODEL_TYPES:
        known = ", ".join(("llama", *MODEL_TYPES))
        raise CheckpointError(path, f"model_type {model_type!r} is none of {known}")
    config = read_settings(path, settings, serving)
    return f"{model_type}: {_describe(config)}", tensor_shapes(config)


def _describe(config: ModelConfig) -> str:
    kinds = Counter(layer.kind for layer in config.layers)
    layers = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    return f"{len(config.layers)} layers ({layers}), hidden {config.hidden_size}"


def _weights(folder: Path, expected: Shapes) -> list[Finding]:
    try:
        found = weight_shapes(weight_files(folder))
    except CheckpointError as error:
        return [Finding("weights", False, f"{error.path}: {error.reason}")]
    misfits = Misfits.between(expected, found)
    wrong = [
        *(Finding(name, False, "is missing") for name in misfits.missing),
        *(Finding(name, False, "belongs to no part of the model") for name in misfits.unexpected),
        *(Finding(name, False, f"has shape {shapes}") for name, shapes in misfits.misshaped),
    ]
    fitting = len(expected) - len(misfits.missing) - len(misfits.misshaped)
    counted = f"{fitting} of {len(expected)} tensors fit by name and shape"
    return [Finding("weights", not wrong, counted), *wrong]


def _tokenizer(folder: Path, ours: bool) -> Finding:
    try:
        if ours:
            tokenizer = Tokenizer.load(folder)
        else:
            tokenizer = Tokenizer.from_json(read_text_files(folder).tokenizer_json)
    except CheckpointError as error:
        return Finding("tokenizer", False, f"{error.path}: {error.reason}")
    except TextError as error:
        return Finding("tokenizer", False, str(error))
    return Finding("tokenizer", True, f"{tokenizer.vocab_size} tokens")
