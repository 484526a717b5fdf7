from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lalte.checkpoints.adapter import (
    adapter_tensor_names,
    merge_adapter,
    read_adapter,
    write_adapter,
)
from lalte.checkpoints.errors import CheckpointError
from lalte.checkpoints.load import LoadedModel, load_model
from lalte.checkpoints.manifest import read_manifest, verify_folder
from lalte.config import LocalGDNConfig
from lalte.init import random_model

BASE_SHA256 = "b" * 64


@pytest.fixture
def layers(loaded: LoadedModel):
    """The base's first layer with other budgets, and a local GDN in place of its second."""
    return replace(loaded.config.layers[0], budgets=(8, 4)), LocalGDNConfig(window=5, rank=8)


@pytest.fixture
def adapter_file(loaded: LoadedModel, layers, tmp_path: Path) -> Path:
    config = replace(loaded.config, layers=layers)
    weights = random_model(config, 5, torch.bfloat16).state_dict()
    path = tmp_path / "result" / "adapter.safetensors"
    tensors = {name: weights[name] for name in adapter_tensor_names(config)}
    write_adapter(path, layers, tensors, BASE_SHA256, "It remembers.")
    return path


def test_an_adapter_reads_back_as_it_was_written(adapter_file: Path, layers):
    adapter = read_adapter(adapter_file)
    assert (adapter.base_sha256, adapter.note) == (BASE_SHA256, "It remembers.")
    assert adapter.layers == layers
    assert {name.split(".")[2] for name in adapter.tensors} == {"0", "1"}
    again = adapter_file.with_name("again.safetensors")
    write_adapter(again, layers, adapter.tensors, adapter.base_sha256, adapter.note)
    assert read_adapter(again).sha256 == adapter.sha256


def test_a_merged_folder_is_the_base_with_the_adapters_layers(
    base: Path, adapter_file: Path, loaded: LoadedModel, tmp_path: Path
):
    adapter = read_adapter(adapter_file)
    manifest = merge_adapter(base, adapter, tmp_path / "merged")
    merged = load_model(tmp_path / "merged")
    assert merged.fingerprint == manifest.fingerprint != loaded.fingerprint
    assert merged.manifest.provenance.routers == f"trained ({adapter.sha256})"
    assert merged.manifest.provenance.notes == ("It remembers.",)
    assert merged.config.layers == adapter.layers
    theirs = loaded.model.state_dict()
    for name, tensor in merged.model.state_dict().items():
        assert torch.equal(tensor, adapter.tensors.get(name, theirs.get(name))), name
    assert read_manifest(base).fingerprint == loaded.fingerprint


def test_a_merge_in_place_equals_one_beside(base: Path, adapter_file: Path, tmp_path: Path):
    adapter = read_adapter(adapter_file)
    beside = merge_adapter(base, adapter, tmp_path / "model")
    other = write_other_adapter(adapter_file)
    merge_adapter(tmp_path / "model", other, tmp_path / "model")
    assert read_manifest(tmp_path / "model").provenance.routers == other.label
    again = merge_adapter(tmp_path / "model", adapter, tmp_path / "model")
    assert again == beside == verify_folder(tmp_path / "model")
    assert sorted(x.name for x in tmp_path.iterdir()) == ["model", "result"]


def write_other_adapter(path: Path):
    adapter = read_adapter(path)
    tensors = {name: tensor + 1 for name, tensor in adapter.tensors.items()}
    other = path.with_name("other.safetensors")
    write_adapter(other, adapter.layers, tensors, BASE_SHA256, "Otherwise.")
    return read_adapter(other)


def test_an_adapter_of_other_weights_is_refused(base: Path, adapter_file: Path, tmp_path: Path):
    adapter = read_adapter(adapter_file)
    write_adapter(adapter_file, adapter.layers, adapter.tensors, "c" * 64, "")
    with pytest.raises(CheckpointError, match="was trained on cccc"):
        merge_adapter(base, read_adapter(adapter_file), tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_an_adapter_of_another_shape_is_refused(base: Path, adapter_file: Path, tmp_path: Path):
    adapter = read_adapter(adapter_file)
    tensors = dict(adapter.tensors)
    tensors.pop(sorted(tensors)[0])
    write_adapter(adapter_file, adapter.layers, tensors, BASE_SHA256, "")
    with pytest.raises(CheckpointError, match="missing"):
        merge_adapter(base, read_adapter(adapter_file), tmp_path / "merged")


def test_an_adapter_of_another_depth_is_refused(base: Path, adapter_file: Path, tmp_path: Path):
    adapter = read_adapter(adapter_file)
    write_adapter(adapter_file, adapter.layers[:1], adapter.tensors, BASE_SHA256, "")
    with pytest.raises(CheckpointError, match="has 2 layers, the adapter describes 1"):
        merge_adapter(base, read_adapter(adapter_file), tmp_path / "merged")


def test_an_existing_folder_is_not_overwritten(base: Path, adapter_file: Path, tmp_path: Path):
    (tmp_path / "merged").mkdir()
    with pytest.raises(CheckpointError, match="exists already"):
        merge_adapter(base, read_adapter(adapter_file), tmp_path / "merged")


def test_what_is_no_adapter_is_refused(base: Path, tmp_path: Path):
    with pytest.raises(CheckpointError, match="format 'none'"):
        read_adapter(base / "model.safetensors")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_adapter(tmp_path / "text")
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_adapter(tmp_path / "absent")
