"""Loads a model folder into a running model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from lalte.checkpoints.errors import CheckpointError
from lalte.checkpoints.llama import check_tensors
from lalte.checkpoints.manifest import (
    CONFIG_FILE,
    TURN_FORMAT_FILE,
    WEIGHTS_FILE,
    Manifest,
    verify_folder,
)
from lalte.config import ConfigError, ModelConfig
from lalte.model import LaLTE
from lalte.text import TextError, Tokenizer, TurnFormat

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model with all that it takes to serve it; `fingerprint` goes into every state header."""

    model: LaLTE
    config: ModelConfig
    tokenizer: Tokenizer
    turn_format: TurnFormat
    manifest: Manifest
    fingerprint: str


def load_model(
    folder: Path, dtype: torch.dtype = torch.bfloat16, device: torch.device | str = "cpu"
) -> LoadedModel:
    """Load `folder`, every file checked against its manifest.

    Raises ModelNotFound where there is no model, CheckpointError naming the file that does not fit.
    """
    manifest = verify_folder(folder)
    try:
        config = ModelConfig.from_json((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        tokenizer = Tokenizer.load(folder)
        turns = TurnFormat.from_json((folder / TURN_FORMAT_FILE).read_text(encoding="utf-8"))
        tensors = load_file(folder / WEIGHTS_FILE)
    except (ConfigError, TextError, SafetensorError, OSError) as error:
        raise CheckpointError(folder, f"cannot be loaded: {error}") from error
    if tokenizer.vocab_size > config.vocab_size:
        raise CheckpointError(
            folder, f"{tokenizer.vocab_size} tokens but {config.vocab_size} embedding rows"
        )
    model = LaLTE(config, dtype=dtype, device=device)
    check_tensors(
        str(folder / WEIGHTS_FILE),
        {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()},
        {name: tuple(tensor.shape) for name, tensor in tensors.items()},
    )
    model.load_state_dict(tensors)
    return LoadedModel(model, config, tokenizer, turns, manifest, manifest.fingerprint)
