"""Reads a Llama-architecture GGUF file and dequantises it.

GGUF stores the rows of q and k for interleaved RoPE (pairs 2i, 2i+1); Llama checkpoints, and our
model, rotate halves (pairs i, i + d/2). The permutation is undone here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gguf
import numpy as np
import torch
from gguf.quants import dequantize

from lalte.checkpoints.errors import CheckpointError
from lalte.checkpoints.gguf_tokenizer import adds_bos, tokenizer_json
from lalte.checkpoints.hashing import sha256_hex
from lalte.checkpoints.llama import LlamaCheckpoint, LlamaDimensions, check_tensors

if TYPE_CHECKING:
    from pathlib import Path

_BLOCK_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_OUTER_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}


def read_gguf(path: Path) -> LlamaCheckpoint:
    """Read `path` as fp32 tensors with LlamaForCausalLM's names and row order.

    Raises CheckpointError for a file that is no Llama, or whose tensors do not fit its metadata.
    """
    source = str(path)
    try:
        reader = gguf.GGUFReader(path)
    except (OSError, ValueError, IndexError, KeyError) as error:
        raise CheckpointError(path, f"cannot be read as GGUF: {error!r}") from error
    fields = {name: field.contents() for name, field in reader.fields.items()}
    names = {_llama_name(tensor.name): tensor for tensor in reader.tensors}
    dimensions = _dimensions(source, fields, tied="lm_head.weight" not in names)
    # GGUF lists the fastest-varying dimension first.
    check_tensors(
        source,
        dimensions.tensor_shapes(),
        {name: tuple(int(n) for n in tensor.shape[::-1]) for name, tensor in names.items()},
    )
    tensors = {
        name: torch.from_numpy(_values(name, tensor, dimensions)) for name, tensor in names.items()
    }
    tokens: list[str] = fields.get("tokenizer.ggml.tokens", [])
    eos = fields.get("tokenizer.ggml.eos_token_id")
    return LlamaCheckpoint(
        name=str(fields.get("general.name", path.stem)),
        dimensions=dimensions,
        tensors=tensors,
        tokenizer_json=tokenizer_json(source, fields),
        chat_template=fields.get("tokenizer.chat_template"),
        bos=_token(tokens, fields.get("tokenizer.ggml.bos_token_id")),
        eos=_token(tokens, eos),
        add_bos=adds_bos(fields),
        stop_ids=frozenset() if eos is None else frozenset({int(eos)}),
        license=str(fields.get("general.license", "")),
        sha256=sha256_hex([path]),
    )


def _token(tokens: list[str], token: int | None) -> str:
    return "" if token is None else tokens[token]


def _llama_name(name: str) -> str:
    """Translate a GGUF tensor's name; unknown ones stay, to be reported as unexpected."""
    if name in _OUTER_NAMES:
        return _OUTER_NAMES[name]
    match name.split("."):
        case ["blk", layer, part, "weight"] if part in _BLOCK_NAMES:
            return f"model.layers.{layer}.{_BLOCK_NAMES[part]}.weight"
    return name


def _dimensions(source: str, fields: dict[str, Any], *, tied: bool) -> LlamaDimensions:
    architecture = fields.get("general.architecture")
    if architecture != "llama":
        raise CheckpointError(source, f"its architecture is {architecture!r}; 'llama' is supported")
    scaling = fields.get("llama.rope.scaling.type", "none")
    if scaling != "none":
        raise CheckpointError(source, f"RoPE scaling {scaling!r} is not supported")
    try:
        hidden = int(fields["llama.embedding_length"])
        heads = int(fields["llama.attention.head_count"])
        dimensions = LlamaDimensions(
            vocab_size=len(fields["tokenizer.ggml.tokens"]),
            hidden_size=hidden,
            intermediate_size=int(fields["llama.feed_forward_length"]),
            num_layers=int(fields["llama.block_count"]),
            num_heads=heads,
            num_kv_heads=int(fields.get("llama.attention.head_count_kv", heads)),
            head_dim=int(fields.get("llama.attention.key_length", hidden // heads)),
            # Stored as float32: 1e-5 reads back as 9.99999975e-06.
            rms_norm_eps=_short(fields["llama.attention.layer_norm_rms_epsilon"]),
            rope_theta=_short(fields.get("llama.rope.freq_base", 10000.0)),
            tie_embeddings=tied,
            max_position=int(fields["llama.context_length"]),
        )
    except KeyError as error:
        raise CheckpointError(source, f"its metadata lacks {error}") from error
    rotated = fields.get("llama.rope.dimension_count", dimensions.head_dim)
    if rotated != dimensions.head_dim:
        raise CheckpointError(
            source, f"RoPE over {rotated} of {dimensions.head_dim} channels is not supported"
        )
    return dimensions


def _short(value: float) -> float:
    """Return the decimal number that a float32 was written from."""
    return float(str(np.float32(value)))


def _values(name: str, tensor: gguf.ReaderTensor, dimensions: LlamaDimensions) -> np.ndarray:
    values = np.asarray(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
    values = values.reshape([int(n) for n in tensor.shape[::-1]])
    if name.endswith("q_proj.weight"):
        values = unpermute(values, dimensions.num_heads)
    elif name.endswith("k_proj.weight"):
        values = unpermute(values, dimensions.num_kv_heads)
    return np.require(values, requirements=["C", "W"])  # F32 tensors are views of the file


def unpermute(rows: np.ndarray, heads: int) -> np.ndarray:
    """Rows for interleaved RoPE -> rows for rotated halves. rows: [heads * head_dim, hidden]."""
    total, hidden = rows.shape
    pairs = rows.reshape(heads, total // heads // 2, 2, hidden)
    return pairs.swapaxes(1, 2).reshape(total, hidden)
