"""Adapters: the trained parts of a retrofit, without the base model's weights.

An adapter is one safetensors file. It holds routers, branches of local GDN layers, and which layers
those belong to. Its metadata names the format and the sha256 of the weights that it was trained on;
it fits no others, and says so.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from lalte.checkpoints.convert import PLAIN_NOTE
from lalte.checkpoints.errors import CheckpointError
from lalte.checkpoints.folder import stored_tensors, write_model_folder
from lalte.checkpoints.hashing import sha256_hex
from lalte.checkpoints.llama import check_tensors
from lalte.checkpoints.manifest import (
    CONFIG_FILE,
    TOKENIZER_FILE,
    TURN_FORMAT_FILE,
    WEIGHTS_FILE,
    Manifest,
    trained,
    verify_folder,
)
from lalte.config import ConfigError, ModelConfig, layers_from_json, layers_to_json
from lalte.names import branch_parameter_names, router_parameter_names
from lalte.text import TurnFormat

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from lalte.config import LayerConfig

FORMAT = "lalte adapter 2"
_ABOUT = "adapter"  # the metadata entry that holds the rest as JSON


@dataclass(frozen=True, slots=True)
class Adapter:
    """What an adapter's file says.

    layers: every layer of the adapted model. tensors: by our names, their routers and branches.
    sha256: of the adapter's file; base_sha256: of the base.
    note: a sentence that whoever uses the merged model must know.
    """

    layers: tuple[LayerConfig, ...]
    tensors: Mapping[str, Tensor]
    sha256: str
    base_sha256: str
    note: str

    @property
    def label(self) -> str:
        """What a manifest says of routers from this adapter."""
        return trained(self.sha256)


def adapter_tensor_names(config: ModelConfig) -> list[str]:
    """Name what an adapter holds for a model: all that its Llama does not."""
    return router_parameter_names(config) + branch_parameter_names(config)


def write_adapter(
    path: Path,
    layers: Sequence[LayerConfig],
    tensors: Mapping[str, Tensor],
    base_sha256: str,
    note: str,
) -> None:
    """Write an adapter file; the same input gives the same bytes."""
    # One entry, because safetensors writes several in an order that changes from run to run.
    about = json.dumps(
        {
            "format": FORMAT,
            "base_sha256": base_sha256,
            "note": note,
            "layers": layers_to_json(layers),
        }
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(dict(tensors), path, {_ABOUT: about})
    path.chmod(0o644)


def read_adapter(path: Path) -> Adapter:
    """Read an adapter file. Raises CheckpointError."""
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {}).get(_ABOUT, "{}"))
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(path, f"cannot be read as an adapter: {error}") from error
    if about.get("format") != FORMAT:
        found = about.get("format", "none")
        raise CheckpointError(path, f"has adapter format {found!r}; this memoryd reads {FORMAT!r}")
    try:
        layers = layers_from_json(about["layers"])
    except ConfigError as error:
        raise CheckpointError(path, f"describes layers that cannot be: {error}") from error
    return Adapter(layers, tensors, sha256_hex([path]), about["base_sha256"], about["note"])


def merge_adapter(base: Path, adapter: Adapter, dest: Path) -> Manifest:
    """Write the model folder `dest`: the model of `base` with the adapter's layers.

    `base` may be adapted already. `dest` may be `base`, which is then replaced. Raises
    CheckpointError when the adapter was trained for other weights, or its tensors do not fit.
    """
    manifest = verify_folder(base)
    provenance = manifest.provenance
    if provenance.source_sha256 != adapter.base_sha256:
        raise CheckpointError(
            base,
            f"was converted from weights with sha256 {provenance.source_sha256}, but the adapter "
            f"was trained on {adapter.base_sha256}. Convert those weights, or train an adapter for "
            "these: `memoryd train retrofit`",
        )
    old = ModelConfig.from_json((base / CONFIG_FILE).read_text(encoding="utf-8"))
    if len(adapter.layers) != len(old.layers):
        raise CheckpointError(
            base, f"has {len(old.layers)} layers, the adapter describes {len(adapter.layers)}"
        )
    config = replace(old, layers=adapter.layers)
    stored = stored_tensors(config)
    check_tensors(
        f"the adapter for {base}",
        {name: tuple(stored[name].shape) for name in adapter_tensor_names(config)},
        {name: tuple(tensor.shape) for name, tensor in adapter.tensors.items()},
    )
    tensors = {n: x for n, x in load_file(base / WEIGHTS_FILE).items() if n in stored}
    # What was said of the routers before is no longer true.
    notes = (adapter.note, *(note for note in provenance.notes if note == PLAIN_NOTE))
    dest.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{dest.name}.", dir=dest.parent) as scratch:
        draft = Path(scratch) / dest.name
        merged = write_model_folder(
            draft,
            config=config,
            tensors=tensors | dict(adapter.tensors),
            tokenizer_json=(base / TOKENIZER_FILE).read_text(encoding="utf-8"),
            turn_format=TurnFormat.from_json((base / TURN_FORMAT_FILE).read_text(encoding="utf-8")),
            provenance=replace(provenance, routers=adapter.label, notes=notes),
        )
        if dest.resolve() == base.resolve():
            shutil.move(base, Path(scratch) / "replaced")
        elif dest.exists():
            raise CheckpointError(dest, "exists already; remove it or choose another place")
        draft.rename(dest)
    return merged
