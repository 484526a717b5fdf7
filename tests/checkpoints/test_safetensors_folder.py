import dataclasses
import json
from pathlib import Path

import pytest
import torch

from lalte.checkpoints.errors import CheckpointError
from lalte.checkpoints.safetensors import read_safetensors


@pytest.mark.parametrize("shards", [1, 3])
def test_a_folder_is_read_by_name(make, tmp_path: Path, shards: int):
    tensors = make.tensors(make.dimensions)
    read = read_safetensors(make.hf_folder(tmp_path / "m", tensors=tensors, shards=shards))
    assert read.dimensions == make.dimensions
    assert read.tensors.keys() == tensors.keys()
    assert all(torch.equal(read.tensors[name], tensors[name]) for name in tensors)
    assert (read.bos, read.eos, read.stop_ids) == ("<|im_start|>", "<|im_end|>", {2})
    assert read.chat_template is not None


def test_the_angle_tables_of_old_exporters_are_no_weights(make, tmp_path: Path):
    tensors = make.tensors(make.dimensions)
    table = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)}
    read = read_safetensors(make.hf_folder(tmp_path / "m", tensors=tensors | table))
    assert read.tensors.keys() == tensors.keys()


def test_rope_settings_of_transformers_5_are_read(make, tmp_path: Path):
    rope = {"rope_type": "default", "rope_theta": 5000.0}
    read = read_safetensors(make.hf_folder(tmp_path / "m", rope_parameters=rope))
    assert read.dimensions.rope_theta == 5000.0


def test_generation_config_names_the_stops(make, tmp_path: Path):
    folder = make.hf_folder(tmp_path / "m")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [0, 2]}))
    assert read_safetensors(folder).stop_ids == {0, 2}


def test_the_template_may_lie_in_a_file_or_in_a_list(make, tmp_path: Path):
    folder = make.hf_folder(tmp_path / "m", template=None)
    assert read_safetensors(folder).chat_template is None
    named = [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))
    assert read_safetensors(folder).chat_template == "d"
    (folder / "chat_template.jinja").write_text("from a file")
    assert read_safetensors(folder).chat_template == "from a file"


def test_tensors_that_do_not_fit_are_named(make, tmp_path: Path):
    tensors = make.tensors(make.dimensions)
    del tensors["model.norm.weight"]
    tensors["model.layers.2.self_attn.k_proj.weight"] = torch.ones(64, 64)
    tensors["model.layers.0.self_attn.q_proj.bias"] = torch.ones(64)
    with pytest.raises(CheckpointError) as caught:
        read_safetensors(make.hf_folder(tmp_path / "m", tensors=tensors))
    for part in (
        "missing: model.norm.weight",
        "unexpected: model.layers.0.self_attn.q_proj.bias",
        "model.layers.2.self_attn.k_proj.weight [64, 64] instead of [32, 64]",
    ):
        assert part in caught.value.reason


def test_a_long_list_of_missing_tensors_is_cut(make, tmp_path: Path):
    few = {"model.norm.weight": torch.ones(make.dimensions.hidden_size)}
    with pytest.raises(CheckpointError, match="and 22 more"):
        read_safetensors(make.hf_folder(tmp_path / "m", tensors=few))


def test_integer_tensors_are_refused(make, tmp_path: Path):
    tensors = make.tensors(make.dimensions)
    tensors["model.norm.weight"] = torch.ones(64, dtype=torch.int8)
    with pytest.raises(CheckpointError, match=r"not floating point: model\.norm\.weight"):
        read_safetensors(make.hf_folder(tmp_path / "m", tensors=tensors))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"model_type": "qwen2"}, "model_type = 'qwen2'"),
        ({"attention_bias": True}, "attention_bias = True"),
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu'"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling"),
        ({"rope_parameters": {"rope_type": "llama3"}}, "rope_type = 'llama3'"),
    ],
)
def test_settings_that_the_model_does_not_compute_are_refused(
    make, tmp_path: Path, setting, message: str
):
    with pytest.raises(CheckpointError, match=message):
        read_safetensors(make.hf_folder(tmp_path / "m", **setting))


@pytest.mark.parametrize(
    "file", ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
)
def test_a_missing_file_is_named(make, tmp_path: Path, file: str):
    folder = make.hf_folder(tmp_path / "m")
    (folder / file).unlink()
    with pytest.raises(CheckpointError, match="is missing") as caught:
        read_safetensors(folder)
    assert caught.value.path == str(folder / file)


def test_a_missing_shard_is_named(make, tmp_path: Path):
    folder = make.hf_folder(tmp_path / "m", shards=2)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model-00002-of-00002\.safetensors: is missing"):
        read_safetensors(folder)


def test_a_truncated_weights_file_is_refused(make, tmp_path: Path):
    folder = make.hf_folder(tmp_path / "m")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="cannot be read as safetensors"):
        read_safetensors(folder)


def test_config_json_must_hold_every_size(make, tmp_path: Path):
    folder = make.hf_folder(tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    del config["rms_norm_eps"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="lacks 'rms_norm_eps'"):
        read_safetensors(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="is not JSON"):
        read_safetensors(folder)


def test_an_untied_head_is_required(make, tmp_path: Path):
    dimensions = dataclasses.replace(make.dimensions, tie_embeddings=False)
    assert "lm_head.weight" in read_safetensors(make.hf_folder(tmp_path / "a", dimensions)).tensors
    tied = make.tensors(make.dimensions)
    with pytest.raises(CheckpointError, match=r"missing: lm_head\.weight"):
        read_safetensors(make.hf_folder(tmp_path / "b", dimensions, tensors=tied))
