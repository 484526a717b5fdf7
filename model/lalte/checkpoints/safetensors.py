"""Reads a Llama-architecture folder as the Hugging Face hub lays it out.

config.json, *.safetensors (one file, or several with an index), tokenizer.json and
tokenizer_config.json. Strict: a setting that our model does not compute is refused, not ignored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lalte.checkpoints.errors import CheckpointError
from lalte.checkpoints.hashing import sha256_hex
from lalte.checkpoints.hub_folder import (
    CONFIG,
    load_weights,
    read_json,
    read_text_files,
    weight_files,
)
from lalte.checkpoints.llama import LlamaCheckpoint, LlamaDimensions, check_tensors

if TYPE_CHECKING:
    from pathlib import Path

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
    config = read_json(folder / CONFIG)
    dimensions = read_dimensions(folder, config)
    paths = weight_files(folder)
    # Old exporters stored this table of angles, which follows from rope_theta.
    tensors = {
        n: t for n, t in load_weights(paths).items() if not n.endswith("rotary_emb.inv_freq")
    }
    check_tensors(
        str(folder), dimensions.tensor_shapes(), {n: tuple(t.shape) for n, t in tensors.items()}
    )
    integers = sorted(name for name, tensor in tensors.items() if not tensor.is_floating_point())
    if integers:
        raise CheckpointError(folder, f"tensors are not floating point: {', '.join(integers[:6])}")
    text = read_text_files(folder)
    return LlamaCheckpoint(
        name=folder.name,
        dimensions=dimensions,
        tensors=tensors,
        tokenizer_json=text.tokenizer_json,
        chat_template=text.chat_template,
        bos=text.bos,
        eos=text.eos,
        add_bos=text.add_bos,
        stop_ids=text.stop_ids,
        license="",
        sha256=sha256_hex(paths),
    )


def read_dimensions(folder: Path, config: dict[str, Any]) -> LlamaDimensions:
    """Return what a Llama's config.json says. Raises CheckpointError naming what is unsupported."""
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
        raise CheckpointError(folder / CONFIG, "; ".join(wrong))
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
        raise CheckpointError(folder / CONFIG, f"lacks {error}") from error
