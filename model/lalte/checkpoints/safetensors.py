"""Reads a Llama-architecture folder as the Hugging Face hub lays it out.

config.json, *.safetensors (one file, or several with an index), tokenizer.json and
tokenizer_config.json. Strict: a setting that our model does not compute is refused, not ignored.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from lalte.checkpoints.errors import CheckpointError
from lalte.checkpoints.hashing import sha256_hex
from lalte.checkpoints.llama import LlamaCheckpoint, LlamaDimensions, check_tensors

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

# Settings that change what the model computes, and the only values that ours computes.
_REQUIRED = {
    "model_type": "llama",
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "rope_scaling": None,
    "quantization_config": None,
}


def read_safetensors(folder: Path) -> LlamaCheckpoint:
    """Read `folder`. Raises CheckpointError naming what is missing, unexpected or unsupported."""
    config = _read_json(folder / "config.json")
    dimensions = _dimensions(folder, config)
    paths = _weight_files(folder)
    tensors: dict[str, Tensor] = {}
    for path in paths:
        try:
            tensors |= load_file(path)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(path, f"cannot be read as safetensors: {error}") from error
    # Old exporters stored this table of angles, which follows from rope_theta.
    tensors = {n: t for n, t in tensors.items() if not n.endswith("rotary_emb.inv_freq")}
    check_tensors(
        str(folder), dimensions.tensor_shapes(), {n: tuple(t.shape) for n, t in tensors.items()}
    )
    integers = sorted(name for name, tensor in tensors.items() if not tensor.is_floating_point())
    if integers:
        raise CheckpointError(folder, f"tensors are not floating point: {', '.join(integers[:6])}")
    tokenizer = folder / "tokenizer.json"
    if not tokenizer.is_file():
        raise CheckpointError(tokenizer, "is missing; save the model's fast tokenizer there")
    settings = _read_json(folder / "tokenizer_config.json")
    return LlamaCheckpoint(
        name=folder.name,
        dimensions=dimensions,
        tensors=tensors,
        tokenizer_json=tokenizer.read_text(encoding="utf-8"),
        chat_template=_chat_template(folder, settings),
        bos=_token_text(settings.get("bos_token")),
        eos=_token_text(settings.get("eos_token")),
        add_bos=bool(settings.get("add_bos_token", False)),
        stop_ids=_stop_ids(folder, config),
        license="",
        sha256=sha256_hex(paths),
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(path, "is missing") from None
    except ValueError as error:
        raise CheckpointError(path, f"is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise CheckpointError(path, "is not a JSON object")
    return data


def _dimensions(folder: Path, config: dict[str, Any]) -> LlamaDimensions:
    wrong = [
        f"{key} = {config[key]!r} (only {value!r} is supported)"
        for key, value in _REQUIRED.items()
        if key in config and config[key] != value
    ]
    # transformers 5 writes RoPE's settings into one object.
    rope = config.get("rope_parameters") or {}
    if rope.get("rope_type", "default") != "default":
        wrong.append(f"rope_type = {rope['rope_type']!r} (only 'default' is supported)")
    if wrong:
        raise CheckpointError(folder / "config.json", "; ".join(wrong))
    try:
        hidden, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
        return LlamaDimensions(
            vocab_size=int(config["vocab_size"]),
            hidden_size=hidden,
            intermediate_size=int(config["intermediate_size"]),
            num_layers=int(config["num_hidden_layers"]),
            num_heads=heads,
            num_kv_heads=int(config.get("num_key_value_heads") or heads),
            head_dim=int(config.get("head_dim") or hidden // heads),
            rms_norm_eps=float(config["rms_norm_eps"]),
            rope_theta=float(rope.get("rope_theta", config.get("rope_theta", 10000.0))),
            tie_embeddings=bool(config.get("tie_word_embeddings", False)),
            max_position=int(config["max_position_embeddings"]),
        )
    except KeyError as error:
        raise CheckpointError(folder / "config.json", f"lacks {error}") from error


def _weight_files(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        parts = _read_json(index).get("weight_map", {})
        paths = [folder / name for name in sorted(set(parts.values()))]
    else:
        paths = [folder / "model.safetensors"]
    for path in paths:
        if not path.is_file():
            raise CheckpointError(path, "is missing; download the model again")
    return paths


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


def _stop_ids(folder: Path, config: dict[str, Any]) -> frozenset[int]:
    path = folder / "generation_config.json"
    generation = _read_json(path) if path.is_file() else {}
    eos = generation.get("eos_token_id", config.get("eos_token_id"))
    if eos is None:
        return frozenset()
    return frozenset(eos if isinstance(eos, list) else [eos])
