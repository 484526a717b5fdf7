import dataclasses
import json
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from lalte.checkpoints.errors import CheckpointError
from lalte.checkpoints.gguf import read_gguf
from lalte.text import Tokenizer

QUANTS = gguf.GGMLQuantizationType


def test_an_f32_file_gives_back_the_llama_it_was_written_from(make, tmp_path: Path):
    tensors = make.tensors(make.dimensions)
    read = read_gguf(make.gguf(tmp_path / "m.gguf", tensors))
    assert read.dimensions == make.dimensions
    assert read.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(read.tensors[name], tensor), name
    assert (read.bos, read.eos, read.stop_ids) == ("<|im_start|>", "<|im_end|>", {2})
    assert (read.name, read.license, read.add_bos) == ("Small Llama", "apache-2.0", False)


@pytest.mark.parametrize(
    ("kind", "step"),
    [(QUANTS.F16, 1e-3), (QUANTS.Q8_0, 1 / 127), (QUANTS.Q4_1, 1 / 15), (QUANTS.Q4_0, 1 / 7)],
)
def test_quantised_values_stay_within_one_step(make, tmp_path: Path, kind, step: float):
    tensors = make.tensors(make.dimensions)
    read = read_gguf(make.gguf(tmp_path / "m.gguf", tensors, quantisation=kind))
    for name, tensor in tensors.items():
        # 32 values share a scale; a head's rows are reordered but blocks lie along the columns.
        spread = tensor.abs().max() * 2 if tensor.ndim == 2 else 0
        assert (read.tensors[name] - tensor).abs().max() <= step * spread, name


def test_an_untied_head_is_read(make, tmp_path: Path):
    dimensions = dataclasses.replace(make.dimensions, tie_embeddings=False)
    tensors = make.tensors(dimensions)
    read = read_gguf(make.gguf(tmp_path / "m.gguf", tensors, dimensions))
    assert not read.dimensions.tie_embeddings
    assert torch.equal(read.tensors["lm_head.weight"], tensors["lm_head.weight"])


def test_the_tokenizer_inside_encodes(make, tmp_path: Path):
    read = read_gguf(make.gguf(tmp_path / "m.gguf", make.tensors(make.dimensions)))
    tokenizer = Tokenizer.from_json(read.tokenizer_json)
    assert tokenizer.decode(tokenizer.encode_plain(" the time 12 é")) == " the time 12 é"
    pieces = json.loads(read.tokenizer_json)["pre_tokenizer"]["pretokenizers"]
    assert [piece["type"] for piece in pieces] == ["Digits", "ByteLevel"]


def test_a_missing_tensor_is_named(make, tmp_path: Path):
    tensors = make.tensors(make.dimensions)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    with pytest.raises(CheckpointError, match=r"missing: model\.layers\.1\.mlp\.up_proj\.weight"):
        read_gguf(make.gguf(tmp_path / "m.gguf", tensors))


def test_an_unexpected_tensor_is_named(make, tmp_path: Path):
    tensors = make.tensors(make.dimensions) | {"rope_freqs.weight": torch.ones(8)}
    with pytest.raises(CheckpointError, match=r"unexpected: rope_freqs\.weight"):
        read_gguf(make.gguf(tmp_path / "m.gguf", tensors))


def test_a_wrong_shape_is_named(make, tmp_path: Path):
    tensors = make.tensors(make.dimensions)
    tensors["model.norm.weight"] = torch.ones(32)
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight \[32\] instead of \[64\]"):
        read_gguf(make.gguf(tmp_path / "m.gguf", tensors))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pre": "llama-bpe"}, "pre-tokenizer 'llama-bpe'; supported"),
        ({"architecture": "qwen2"}, "architecture is 'qwen2'"),
        (
            {"extra": lambda w: w.add_rope_scaling_type(gguf.RopeScalingType.YARN)},
            "RoPE scaling 'yarn'",
        ),
        ({"extra": lambda w: w.add_rope_dimension_count(8)}, "8 of 16 channels"),
    ],
)
def test_what_the_model_cannot_compute_is_refused(make, tmp_path: Path, options, message: str):
    tensors = make.tensors(make.dimensions)
    with pytest.raises(CheckpointError, match=message):
        read_gguf(make.gguf(tmp_path / "m.gguf", tensors, **options))


@pytest.mark.parametrize("content", [b"", b"not a GGUF file at all, by any measure"])
def test_another_kind_of_file_is_refused(tmp_path: Path, content: bytes):
    path = tmp_path / "m.gguf"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="cannot be read as GGUF"):
        read_gguf(path)


def test_a_truncated_file_is_refused(make, tmp_path: Path):
    path = make.gguf(tmp_path / "m.gguf", make.tensors(make.dimensions))
    whole = path.read_bytes()
    for size in np.linspace(8, len(whole) - 40, 9, dtype=int):
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match="cannot be read as GGUF"):
            read_gguf(path)
