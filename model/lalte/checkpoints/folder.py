"""Writes a model folder, all at once or not at all."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file

from lalte.checkpoints.errors import CheckpointError
from lalte.checkpoints.llama import check_tensors
from lalte.checkpoints.manifest import (
    CONFIG_FILE,
    MANIFEST_FILE,
    TOKENIZER_FILE,
    TURN_FORMAT_FILE,
    WEIGHTS_FILE,
    Manifest,
    Provenance,
    make_manifest,
)
from lalte.model import LaLTE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from lalte.config import ModelConfig
    from lalte.text import TurnFormat

STORED_DTYPE = torch.bfloat16


def stored_tensors(config: ModelConfig) -> dict[str, Tensor]:
    """Name every tensor of the model; shape and stored dtype, without values (device "meta")."""
    return dict(LaLTE(config, dtype=STORED_DTYPE, device="meta").state_dict())


def write_model_folder(
    folder: Path,
    *,
    config: ModelConfig,
    tensors: Mapping[str, Tensor],
    tokenizer_json: str,
    turn_format: TurnFormat,
    provenance: Provenance,
) -> Manifest:
    """Write a new model folder.

    tensors: by our names, any float dtype; they are stored in the dtypes of a bfloat16 model.
    Raises CheckpointError when `folder` exists or the tensors do not fit the config.
    """
    stored = stored_tensors(config)
    check_tensors(
        str(folder),
        {name: tuple(tensor.shape) for name, tensor in stored.items()},
        {name: tuple(tensor.shape) for name, tensor in tensors.items()},
    )
    weights = {n: tensors[n].to(stored[n].dtype).contiguous() for n in stored}
    with new_folder(folder) as draft:
        (draft / CONFIG_FILE).write_text(config.to_json(), encoding="utf-8")
        save_file(weights, draft / WEIGHTS_FILE)
        (draft / WEIGHTS_FILE).chmod(0o644)  # safetensors makes it 0600: others may serve it too
        (draft / TOKENIZER_FILE).write_text(tokenizer_json, encoding="utf-8")
        (draft / TURN_FORMAT_FILE).write_text(turn_format.to_json(), encoding="utf-8")
        manifest = make_manifest(draft, provenance)
        (draft / MANIFEST_FILE).write_text(manifest.to_json(), encoding="utf-8")
    return manifest


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Give a temporary folder beside `folder` that takes its name when the block ends well."""
    if folder.exists():
        raise CheckpointError(folder, "exists already; remove it or choose another place")
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        yield draft
        draft.chmod(0o755)
        draft.rename(folder)
    except BaseException:
        shutil.rmtree(draft)
        raise
