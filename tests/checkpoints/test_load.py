import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lalte.checkpoints.errors import CheckpointError, ModelNotFound
from lalte.checkpoints.load import load_model
from lalte.checkpoints.manifest import HASHED_FILES, make_manifest, read_manifest
from lalte.checkpoints.tiny import write_tiny_model
from lalte.text import Role


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_tiny_model(tmp_path / "tiny")
    return tmp_path / "tiny"


def test_a_tiny_model_runs_from_text_to_text(folder: Path):
    loaded = load_model(folder, dtype=torch.float32)
    turns, tokenizer = loaded.turn_format, loaded.tokenizer
    assert loaded.config.chunk == 8
    assert tokenizer.vocab_size == loaded.config.vocab_size
    ids = turns.start(Role.USER) + turns.open(Role.USER) + tokenizer.encode_plain("the time?")
    ids += turns.close(Role.USER) + turns.reply_prefix
    logits = loaded.model.logits(torch.tensor([ids]))
    assert logits.shape == (1, len(ids), loaded.config.vocab_size)
    assert torch.isfinite(logits).all()


def test_a_tiny_model_is_a_function_of_its_seed(folder: Path, tmp_path: Path):
    again = write_tiny_model(tmp_path / "again")
    other = write_tiny_model(tmp_path / "other", seed=1)
    assert read_manifest(folder).fingerprint == again.fingerprint != other.fingerprint


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_stored_values_arrive_in_the_dtype_asked_for(folder: Path, dtype: torch.dtype):
    stored = load_file(folder / "model.safetensors")
    loaded = load_model(folder, dtype=dtype).model.state_dict()
    assert loaded["model.embeddings.weight"].dtype == dtype
    for name, tensor in stored.items():
        assert torch.equal(loaded[name].double(), tensor.double()), name


@pytest.mark.parametrize("make_empty", [True, False])
def test_a_missing_model_says_what_to_run(tmp_path: Path, make_empty: bool):
    if make_empty:
        (tmp_path / "none").mkdir()
    with pytest.raises(ModelNotFound, match="memoryd model pull"):
        load_model(tmp_path / "none")


@pytest.mark.parametrize("name", HASHED_FILES)
def test_an_altered_file_is_refused(folder: Path, name: str):
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(CheckpointError, match="was altered or cut short") as caught:
        load_model(folder)
    assert caught.value.path == str(folder / name)


@pytest.mark.parametrize("name", HASHED_FILES)
def test_a_truncated_or_missing_file_is_refused(folder: Path, name: str):
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[:-1])
    with pytest.raises(CheckpointError, match="cut short"):
        load_model(folder)
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match="is missing"):
        load_model(folder)


def test_a_manifest_that_does_not_fit_is_refused(folder: Path):
    path = folder / "manifest.json"
    good = json.loads(path.read_text())
    for damaged, message in [
        ("{", "cannot be read"),
        (json.dumps({k: v for k, v in good.items() if k != "files"}), "cannot be read"),
        (json.dumps(good | {"format_version": 2}), "format version 2; this memoryd reads 1"),
        (json.dumps(good | {"fingerprint": "0" * 32}), "fingerprint is not that of its files"),
    ]:
        path.write_text(damaged)
        with pytest.raises(CheckpointError, match=message):
            load_model(folder)


def test_weights_that_do_not_fit_the_config_are_named(folder: Path):
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"] = torch.ones(3)
    tensors["stray"] = torch.ones(1)
    save_file(tensors, folder / "model.safetensors")
    sealed = make_manifest(folder, read_manifest(folder).provenance)
    (folder / "manifest.json").write_text(sealed.to_json())
    with pytest.raises(CheckpointError, match=r"unexpected: stray; .*norm\.weight \[3\]"):
        load_model(folder)
