"""What folders of the Hugging Face hub have in common: JSON settings, weights, a tokenizer."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from lalte.checkpoints.errors import CheckpointError
from lalte.checkpoints.sentencepiece import read_sentencepiece
from lalte.text.spec import steps

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"
TOKENIZER = "tokenizer.json"
SENTENCEPIECE = "tokenizer.model"
TOKENIZER_CONFIG = "tokenizer_config.json"
CHAT_TEMPLATE = "chat_template.jinja"
GENERATION_CONFIG = "generation_config.json"


@dataclass(frozen=True, slots=True)
class TextFiles:
    """The tokenizer's files.

    tokenizer_json: the text of tokenizer.json, or of one made from tokenizer.model.
    chat_template: None where there is none.
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
    """Read the tokenizer, tokenizer.json or else SentencePiece's, and what is said about it.

    Raises CheckpointError.
    """
    tokenizer, sentencepiece = folder / TOKENIZER, folder / SENTENCEPIECE
    settings_path = folder / TOKENIZER_CONFIG
    if tokenizer.is_file():
        text, bos, eos = tokenizer.read_text(encoding="utf-8"), "", ""
        spec, settings = read_json(tokenizer), read_json(settings_path)
    elif sentencepiece.is_file():
        read = read_sentencepiece(sentencepiece)
        text, bos, eos = read.tokenizer_json, read.bos, read.eos
        spec = json.loads(text)
        settings = read_json(settings_path) if settings_path.is_file() else {}
    else:
        raise CheckpointError(
            tokenizer, f"is missing, and so is {SENTENCEPIECE}; save the model's tokenizer there"
        )
    bos = _token_text(settings.get("bos_token")) or bos
    return TextFiles(
        tokenizer_json=text,
        chat_template=_chat_template(folder, settings),
        bos=bos,
        eos=_token_text(settings.get("eos_token")) or eos,
        add_bos=bool(bos) and _adds_bos(settings, spec, bos),
        stop_ids=_stop_ids(folder),
    )


def _adds_bos(settings: dict[str, Any], spec: dict[str, Any], bos: str) -> bool:
    """Whether every stream starts with `bos`; many folders leave it to the post-processor."""
    said = settings.get("add_bos_token")
    if said is not None:
        return bool(said)
    templates = [s["single"] for s in steps(spec.get("post_processor")) if "single" in s]
    return any(t and t[0].get("SpecialToken", {}).get("id") == bos for t in templates)


def _chat_template(folder: Path, settings: dict[str, Any]) -> str | None:
    path = folder / CHAT_TEMPLATE
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
    path = folder / GENERATION_CONFIG
    generation = read_json(path) if path.is_file() else {}
    eos = generation.get("eos_token_id", read_json(folder / CONFIG).get("eos_token_id"))
    if eos is None:
        return frozenset()
    return frozenset(eos if isinstance(eos, list) else [eos])
