import dataclasses
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from lalte.checkpoints.convert import LayoutOptions, convert
from lalte.checkpoints.errors import CheckpointError
from lalte.checkpoints.load import load_model
from lalte.checkpoints.manifest import read_manifest
from lalte.config import ConfigError, LTEConfig
from lalte.text import TurnFormatError

WIDE = LayoutOptions(window=96, budget=8, chunk=16)


def transformers_llama(dimensions, tensors) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=dimensions.vocab_size,
        hidden_size=dimensions.hidden_size,
        intermediate_size=dimensions.intermediate_size,
        num_hidden_layers=dimensions.num_layers,
        num_attention_heads=dimensions.num_heads,
        num_key_value_heads=dimensions.num_kv_heads,
        head_dim=dimensions.head_dim,
        rms_norm_eps=dimensions.rms_norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": dimensions.rope_theta},
        tie_word_embeddings=dimensions.tie_embeddings,
        max_position_embeddings=dimensions.max_position,
    )
    model = LlamaForCausalLM(config).eval()
    model.load_state_dict({n: t.bfloat16().float() for n, t in tensors.items()}, strict=False)
    return model


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("source", ["gguf", "hf"])
def test_a_converted_model_computes_what_the_llama_computes(
    make, tmp_path: Path, source: str, tied: bool
):
    dimensions = dataclasses.replace(make.dimensions, tie_embeddings=tied, rope_theta=50_000.0)
    tensors = make.tensors(dimensions, seed=3)
    if source == "gguf":
        path = make.gguf(tmp_path / "m.gguf", tensors, dimensions)
    else:
        path = make.hf_folder(tmp_path / "m", dimensions, tensors=tensors)
    convert(path, tmp_path / "out", options=WIDE)
    loaded = load_model(tmp_path / "out", dtype=torch.float32)
    tokens = torch.randint(512, (2, 90), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        theirs = transformers_llama(dimensions, tensors)(tokens).logits
    assert float(theirs.std()) > 0.5  # the comparison means something
    assert (loaded.model.logits(tokens) - theirs).abs().max() <= 1e-3


def test_every_layer_is_lte_and_routers_are_marked_untrained(make, tmp_path: Path):
    folder = make.hf_folder(tmp_path / "m")
    manifest = convert(folder, tmp_path / "out", options=WIDE, license_id="MIT", origin="a test")
    loaded = load_model(tmp_path / "out")
    assert loaded.config.layers == (LTEConfig(window=96, budgets=(8, 8)),) * 3
    assert loaded.config.chunk == 16
    assert manifest == loaded.manifest == read_manifest(tmp_path / "out")
    provenance = manifest.provenance
    assert (provenance.routers, provenance.license, provenance.source) == (
        "untrained",
        "MIT",
        "a test",
    )
    assert "forgets what lies between" in provenance.notes[0]


def test_untrained_routers_score_every_token_alike(make, tmp_path: Path):
    convert(make.hf_folder(tmp_path / "m"), tmp_path / "out", options=WIDE)
    routers = {
        name: tensor
        for name, tensor in load_model(tmp_path / "out").model.state_dict().items()
        if ".router." in name
    }
    assert len(routers) == 3 * 8
    for name, tensor in routers.items():
        assert torch.all(tensor == (0.5 if name.endswith("proj.bias") else 0.0)), name


def test_a_conversion_is_reproducible(make, tmp_path: Path):
    folder = make.hf_folder(tmp_path / "m")
    first = convert(folder, tmp_path / "a", options=WIDE)
    second = convert(folder, tmp_path / "b", options=WIDE)
    other = convert(folder, tmp_path / "c", options=LayoutOptions(window=97, budget=8, chunk=16))
    assert first.fingerprint == second.fingerprint != other.fingerprint


def test_a_model_without_a_template_says_so(make, tmp_path: Path):
    manifest = convert(make.hf_folder(tmp_path / "m", template=None), tmp_path / "out")
    assert "no chat template" in manifest.provenance.notes[1]
    turns = load_model(tmp_path / "out").turn_format
    assert turns.origin == "plain"
    assert turns.stop_ids == {2}


@pytest.mark.parametrize("damage", ["template", "options", "dest", "source"])
def test_a_failed_conversion_leaves_nothing(make, tmp_path: Path, damage: str):
    template = "{{ messages[0]['content'] }}!" if damage == "template" else None
    folder = make.hf_folder(tmp_path / "m", template=template)
    dest = tmp_path / "models" / "out"
    options = LayoutOptions(window=8) if damage == "options" else WIDE
    if damage == "dest":
        dest.mkdir(parents=True)
    source = tmp_path / "absent" if damage == "source" else folder
    with pytest.raises((CheckpointError, ConfigError, TurnFormatError)):
        convert(source, dest, options=options)
    assert list(tmp_path.glob("models/*")) == ([dest] if damage == "dest" else [])
    assert list(tmp_path.glob("models/out/*")) == []


def test_an_interrupted_write_leaves_nothing(make, tmp_path: Path, monkeypatch):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lalte.checkpoints.folder.make_manifest", interrupted)
    with pytest.raises(KeyboardInterrupt):
        convert(make.hf_folder(tmp_path / "m"), tmp_path / "models" / "out", options=WIDE)
    assert list((tmp_path / "models").iterdir()) == []


def test_a_tokenizer_larger_than_the_embedding_is_refused(make, tmp_path: Path):
    small = dataclasses.replace(make.dimensions, vocab_size=500)
    folder = make.hf_folder(tmp_path / "m", vocab_size=500, tensors=make.tensors(small))
    with pytest.raises(CheckpointError, match="512 tokens, its embedding 500"):
        convert(folder, tmp_path / "out", options=WIDE)
