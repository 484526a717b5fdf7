"""What folders of the Hugging Face hub have in common: JSON settings, weights, a tokenizer."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from lalte.checkpoints.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"
TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"


@dataclass(frozen=True, slots=True)
class TextFiles:
    """The tokenizer's files.

    tokenizer_json: the text of tokenizer.json. chat_template: None where there is none.
    bos, eos: texts of those tokens, "" for none. add_bos: whether every stream starts with bos.
    stop_ids: the ids that the folder names as ends of text.
    """

    tokenizer_json: str
    chat_template: str | None
    bos: str
    eos: str
    add_bos: bool
    stop_ids: frozenset[int]


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raises CheckpointError."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(path, "is missing") from None
    except ValueError as error:
        raise CheckpointError(path, f"is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise CheckpointError(path, "is not a JSON object")
    return data


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files, in order. Raises CheckpointError naming one that is missing."""
    index = folder / WEIGHTS_INDEX
    if index.is_file():
        parts = read_json(index).get("weight_map", {})
        paths = [folder / name for name in sorted(set(parts.values()))]
    else:
        paths = [folder / WEIGHTS]
    for path in paths:
        if not path.is_file():
            raise CheckpointError(path, "is missing; download the model again")
    return paths


def load_weights(paths: list[Path]) -> dict[str, Tensor]:
    """Read every tensor of the files. Raises CheckpointError."""
    tensors: dict[str, Tensor] = {}
    for path in paths:
        try:
            tensors |= load_file(path)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(path, f"cannot be read as safetensors: {error}") from error
    return tensors


def weight_shapes(paths: list[Path]) -> dict[str, tuple[int, ...]]:
    """Read every tensor's shape from the files' headers alone. Raises CheckpointError."""
    shapes: dict[str, tuple[int, ...]] = {}
    for path in paths:
        try:
            with safe_open(path, framework="pt") as file:
                shapes |= {n: tuple(file.get_slice(n).get_shape()) for n in file.keys()}  # noqa: SIM118 - no mapping
        except (SafetensorError, OSError) as error:
            raise CheckpointError(path, f"cannot be read as safetensors: {error}") from error
    return shapes


def read_text_files(folder: Path) -> TextFiles:
    """Read the tokenizer and what is said about it. Raises CheckpointError."""
    tokenizer = folder / TOKENIZER
    if not tokenizer.is_file():
        raise CheckpointError(tokenizer, "is missing; save the model's fast tokenizer there")
    settings = read_json(folder / TOKENIZER_CONFIG)
    return TextFiles(
        tokenizer_json=tokenizer.read_text(encoding="utf-8"),
        chat_template=_chat_template(folder, settings),
        bos=_token_text(settings.get("bos_token")),
        eos=_token_text(settings.get("eos_token")),
        add_bos=bool(settings.get("add_bos_token", False)),
        stop_ids=_stop_ids(folder),
    )


def _chat_template(folder: Path, settings: dict[str, Any]) -> str | None:
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    template = settings.get("chat_template")
    if isinstance(template, list):  # several, by name
        template = {entry["name"]: entry["template"] for entry in template}.get("default")
    return None if template is None else str(template)


def _token_text(token: str | dict[str, Any] | None) -> str:
    if isinstance(token, dict):
        return str(token["content"])
    return token or ""


def _stop_ids(folder: Path) -> frozenset[int]:
    path = folder / "generation_config.json"
    generation = read_json(path) if path.is_file() else {}
    eos = generation.get("eos_token_id", read_json(folder / CONFIG).get("eos_token_id"))
    if eos is None:
        return frozenset()
    return frozenset(eos if isinstance(eos, list) else [eos])
