from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from lalte.checkpoints.cache import default_model_dir
from lalte.checkpoints.llama import LlamaDimensions
from lalte.checkpoints.tiny import tiny_tokenizer_json

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
IM_END = 2

DIMENSIONS = LlamaDimensions(
    vocab_size=512,
    hidden_size=64,
    intermediate_size=96,
    num_layers=3,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    rms_norm_eps=1e-5,
    rope_theta=10000.0,
    tie_embeddings=True,
    max_position=512,
)


def random_tensors(dimensions: LlamaDimensions, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(shape, generator=generator) * (0.3 if len(shape) == 2 else 0.1)
        + (1.0 if len(shape) == 1 else 0.0)
        for name, shape in dimensions.tensor_shapes().items()
    }


def write_hf_folder(
    folder: Path,
    dimensions: LlamaDimensions = DIMENSIONS,
    *,
    tensors: dict[str, torch.Tensor] | None = None,
    template: str | None = CHATML,
    shards: int = 1,
    **config: object,
) -> Path:
    """A Llama folder as the hub has them; `config` overrides config.json's entries."""
    folder.mkdir()
    tensors = random_tensors(dimensions) if tensors is None else tensors
    if shards == 1:
        save_file(tensors, folder / "model.safetensors")
    else:
        weight_map: dict[str, str] = {}
        for i in range(shards):
            part = dict(list(tensors.items())[i::shards])
            file = f"model-{i + 1:05}-of-{shards:05}.safetensors"
            save_file(part, folder / file)
            weight_map |= dict.fromkeys(part, file)
        index = json.dumps({"metadata": {}, "weight_map": weight_map})
        (folder / "model.safetensors.index.json").write_text(index)
    settings = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "attention_bias": False,
        "rope_scaling": None,
        "vocab_size": dimensions.vocab_size,
        "hidden_size": dimensions.hidden_size,
        "intermediate_size": dimensions.intermediate_size,
        "num_hidden_layers": dimensions.num_layers,
        "num_attention_heads": dimensions.num_heads,
        "num_key_value_heads": dimensions.num_kv_heads,
        "rms_norm_eps": dimensions.rms_norm_eps,
        "rope_theta": dimensions.rope_theta,
        "tie_word_embeddings": dimensions.tie_embeddings,
        "max_position_embeddings": dimensions.max_position,
        "eos_token_id": IM_END,
    }
    (folder / "config.json").write_text(json.dumps(settings | config))
    (folder / "tokenizer.json").write_text(tiny_tokenizer_json(dimensions.vocab_size))
    tokenizer = {"bos_token": "<|im_start|>", "eos_token": {"content": "<|im_end|>"}}
    if template is not None:
        tokenizer["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    return folder


def permute(rows: np.ndarray, heads: int) -> np.ndarray:
    """What llama.cpp's converter does to q and k: row i of each half becomes rows 2i and 2i + 1."""
    head_dim = rows.shape[0] // heads
    order = [
        head * head_dim + half * head_dim // 2 + i
        for head in range(heads)
        for i in range(head_dim // 2)
        for half in range(2)
    ]
    return rows[order]


GGUF_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "model.layers": "blk",
}


def gguf_name(name: str) -> str:
    for ours, theirs in GGUF_NAMES.items():
        name = name.replace(ours, theirs)
    return name


def write_gguf(
    path: Path,
    tensors: dict[str, torch.Tensor],
    dimensions: LlamaDimensions = DIMENSIONS,
    *,
    quantisation: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
    pre: str = "smollm",
    architecture: str = "llama",
    extra: Callable[[gguf.GGUFWriter], None] = lambda _: None,
) -> Path:
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("Small Llama")
    writer.add_license("apache-2.0")
    writer.add_block_count(dimensions.num_layers)
    writer.add_context_length(dimensions.max_position)
    writer.add_embedding_length(dimensions.hidden_size)
    writer.add_feed_forward_length(dimensions.intermediate_size)
    writer.add_head_count(dimensions.num_heads)
    writer.add_head_count_kv(dimensions.num_kv_heads)
    writer.add_rope_freq_base(dimensions.rope_theta)
    writer.add_layer_norm_rms_eps(dimensions.rms_norm_eps)
    tokenizer = json.loads(tiny_tokenizer_json(dimensions.vocab_size))
    tokens = list(tokenizer["model"]["vocab"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([3] * 3 + [1] * (len(tokens) - 3))
    writer.add_token_merges([" ".join(merge) for merge in tokenizer["model"]["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(IM_END)
    writer.add_chat_template(CHATML)
    extra(writer)
    for name, tensor in tensors.items():
        values = tensor.numpy()
        if name.endswith("q_proj.weight"):
            values = permute(values, dimensions.num_heads)
        elif name.endswith("k_proj.weight"):
            values = permute(values, dimensions.num_kv_heads)
        kind = quantisation if values.ndim == 2 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(gguf_name(name), gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="session")
def make() -> SimpleNamespace:
    """The writers above: test modules cannot import this file by name."""
    return SimpleNamespace(
        dimensions=DIMENSIONS,
        tensors=random_tensors,
        hf_folder=write_hf_folder,
        gguf=write_gguf,
    )


@pytest.fixture(scope="session")
def weights_folder() -> Path:
    folder = default_model_dir()
    if not folder.exists():
        pytest.fail(f"no weights in {folder}: run `memoryd model pull` (make setup does)")
    return folder


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
