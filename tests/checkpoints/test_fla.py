"""Folders of flash-linear-attention and of Idiap's hybrid models: strict, and back by name."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lalte.checkpoints.errors import CheckpointError
from lalte.checkpoints.fla import (
    convert_fla,
    export_fla,
    read_fla,
    tensor_shapes,
    write_fla,
)
from lalte.checkpoints.fla_config import Serving, read_settings, write_settings
from lalte.checkpoints.load import load_model
from lalte.checkpoints.tiny import tiny_tokenizer_json
from lalte.checkpoints.verify import verify
from lalte.config import FullConfig, GDNConfig, LTEConfig, NSAConfig, SWAConfig
from lalte.family import MEMBERS, member
from lalte.model import LaLTE
from lalte.state import StateSlots

SERVING = Serving(chunk=8, position_span=64)

# The published configurations (0.4B), as their config.json has them.
BASE: dict[str, Any] = {
    "attn_mode": "chunk",
    "bos_token_id": 1,
    "conv_size": 4,
    "eos_token_id": 2,
    "expand_v": 1,
    "fuse_cross_entropy": True,
    "head_dim": 128,
    "hidden_act": "swish",
    "hidden_ratio": 4,
    "hidden_size": 1024,
    "initializer_range": 0.006,
    "intermediate_size": None,
    "max_position_embeddings": 4096,
    "model_type": "gated_deltanet",
    "norm_eps": 1e-06,
    "num_heads": 8,
    "num_hidden_layers": 24,
    "tie_word_embeddings": True,
    "use_cache": True,
    "use_gate": True,
    "use_short_conv": True,
}
ODD = list(range(1, 24, 2))
ATTENTION = {
    "layers": ODD,
    "num_heads": 16,
    "num_kv_heads": 16,
    "qkv_bias": False,
    "window_size": None,
    "rope_theta": 10000.0,
}
LTE = ATTENTION | {
    "attn_type": "lte",
    "window_size": 768,
    "conv_size": [3, 3, 3],
    "conv_dilation": [2, 2, 2],
    "dropout_prob": 0.1,
    "buffer_size": 512,
    "sink_size": 4,
    "routing_method": "sigmoid",
    "routing_grad": True,
    "routing_shared": "head",
    "l1_lambda_shared": "head",
}
NSA = ATTENTION | {
    "attn_type": "nsa",
    "num_heads": 32,
    "num_kv_heads": 2,
    "head_dim": 64,
    "block_size": 64,
    "block_counts": 16,
    "window_size": 512,
}
HYBRID = BASE | {"model_type": "hybrid_gated_deltanet"}
PUBLISHED = {
    "gdn": BASE,
    "gdn-swa": BASE | {"attn": ATTENTION | {"window_size": 1024}},
    "lalte": HYBRID | {"attn": LTE},
    "lansa": HYBRID | {"attn": NSA},
    "gdn-attention": BASE | {"attn": ATTENTION},
}


def small(settings: dict[str, Any]) -> dict[str, Any]:
    """The same layout at a width that runs in a moment."""
    body = settings | {
        "vocab_size": 512,
        "hidden_size": 64,
        "num_heads": 2,
        "head_dim": 16,
        "num_hidden_layers": 4,
    }
    if "attn" in body:
        sizes = {"layers": [1, 3], "num_heads": 4, "num_kv_heads": 2}
        match body["attn"].get("attn_type"):
            case "lte":
                sizes |= {"window_size": 20, "buffer_size": 12}
            case "nsa":
                sizes |= {"window_size": 10, "block_size": 4, "block_counts": 4, "head_dim": 32}
            case _ if body["attn"]["window_size"] is not None:
                sizes |= {"window_size": 20}
        body["attn"] = body["attn"] | sizes
    return body


def random_tensors(settings: dict[str, Any]) -> dict[str, torch.Tensor]:
    shapes = tensor_shapes(read_settings(Path("c"), settings, SERVING))
    generator = torch.Generator().manual_seed(3)
    return {
        name: torch.randn(shape, generator=generator) / max(shape[-1], 1) ** 0.5
        for name, shape in shapes.items()
    }


def write(folder: Path, settings: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(settings))
    save_file(tensors, folder / "model.safetensors")
    (folder / "tokenizer.json").write_text(tiny_tokenizer_json(512))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|endoftext|>"}))
    return folder


@pytest.fixture(params=PUBLISHED)
def name(request) -> str:
    return request.param


def test_published_configurations_are_the_family(name: str):
    config = read_settings(Path("config.json"), PUBLISHED[name])
    ours = member(name, "0.4b")
    if name == "gdn":  # without attention layers their sizes mean nothing
        ours = replace(ours, num_heads=8, num_kv_heads=8, head_dim=128)
    assert config == ours


# Names and shapes written out by hand from the published layout, not by our own code.
GDN_SHAPES = {
    "q_proj.weight": (1024, 1024),
    "k_proj.weight": (1024, 1024),
    "v_proj.weight": (1024, 1024),
    "a_proj.weight": (8, 1024),
    "b_proj.weight": (8, 1024),
    "g_proj.weight": (1024, 1024),
    "o_proj.weight": (1024, 1024),
    "q_conv1d.weight": (1024, 1, 4),
    "k_conv1d.weight": (1024, 1, 4),
    "v_conv1d.weight": (1024, 1, 4),
    "A_log": (8,),
    "dt_bias": (8,),
    "o_norm.weight": (128,),
}
ATTENTION_SHAPES = {f"{x}_proj.weight": (1024, 1024) for x in "qkvo"}
ODD_SHAPES = {
    "gdn": GDN_SHAPES,
    "gdn-swa": ATTENTION_SHAPES,
    "gdn-attention": ATTENTION_SHAPES,
    "lalte": ATTENTION_SHAPES
    | {
        "router.conv_stack.convs.0.weight": (1024, 128, 1, 3),
        "router.conv_stack.convs.0.bias": (1024,),
        "router.conv_stack.convs.1.weight": (512, 64, 1, 3),
        "router.conv_stack.convs.1.bias": (512,),
        "router.conv_stack.convs.2.weight": (256, 32, 1, 3),
        "router.conv_stack.convs.2.bias": (256,),
        "router.conv_stack.proj.weight": (16, 16, 1, 1),
        "router.conv_stack.proj.bias": (16,),
    },
    "lansa": {
        "q_proj.weight": (2048, 1024),
        "k_proj.weight": (128, 1024),
        "v_proj.weight": (128, 1024),
        "g_proj.weight": (96, 1024),
        "o_proj.weight": (1024, 2048),
    },
}


def test_names_and_shapes_of_the_published_checkpoints_at_their_true_size(name: str):
    expected = {"model.embeddings.weight": (32000, 1024), "model.norm.weight": (1024,)}
    for i in range(24):
        expected |= {
            f"model.layers.{i}.{part}": shape
            for part, shape in {
                "attn_norm.weight": (1024,),
                "mlp_norm.weight": (1024,),
                "mlp.gate_proj.weight": (2816, 1024),
                "mlp.up_proj.weight": (2816, 1024),
                "mlp.down_proj.weight": (1024, 2816),
            }.items()
        }
        layer = ODD_SHAPES[name] if i % 2 else GDN_SHAPES
        expected |= {f"model.layers.{i}.attn.{part}": shape for part, shape in layer.items()}
    if name == "lalte":
        expected |= {"model.l1_lambda": (12, 16), "model.num_kept": (12, 16)}
    assert tensor_shapes(read_settings(Path("config.json"), PUBLISHED[name])) == expected


def test_a_folder_loads_runs_and_goes_back_by_name(name: str, tmp_path: Path):
    settings = small(PUBLISHED[name])
    tensors = random_tensors(settings)
    source = write(tmp_path / "theirs", settings, tensors)
    checkpoint = read_fla(source, SERVING)

    model = LaLTE(checkpoint.config)
    model.load_state_dict(checkpoint.tensors)
    tokens = torch.randint(0, 512, (60,))
    slots = StateSlots.allocate(checkpoint.config, 1)
    model.absorb(tokens[None, :48], [slots.view(0)])
    logits = model.extend(tokens[48:], slots.view(0))
    assert logits.isfinite().all()
    torch.testing.assert_close(logits, model.logits(tokens[None])[0, -1], atol=1e-4, rtol=1e-4)

    write_fla(tmp_path / "back", checkpoint)
    written = load_file(tmp_path / "back" / "model.safetensors")
    assert written.keys() == tensors.keys()
    assert all(torch.equal(written[n], tensors[n]) for n in tensors)
    assert json.loads((tmp_path / "back" / "config.json").read_text()) == settings


def test_a_converted_folder_is_served_and_exported_by_name(name: str, tmp_path: Path):
    settings = small(PUBLISHED[name])
    tensors = random_tensors(settings)
    source = write(tmp_path / "theirs", settings, tensors)
    convert_fla(source, tmp_path / "ours", serving=SERVING, license_id="MIT")
    loaded = load_model(tmp_path / "ours")
    assert loaded.config == read_settings(Path("c"), settings, SERVING)
    assert loaded.manifest.provenance.license == "MIT"

    export_fla(tmp_path / "ours", tmp_path / "back")
    back = read_fla(tmp_path / "back", SERVING)
    assert back.config == loaded.config
    stored = loaded.model.state_dict()
    assert tensors.keys() == back.tensors.keys() | back.buffers.keys()
    for tensor_name, tensor in back.tensors.items():
        rounded = tensors[tensor_name].to(stored[tensor_name].dtype)
        assert torch.equal(tensor, rounded), tensor_name
    assert all(not buffer.any() for buffer in back.buffers.values())
    convert_fla(tmp_path / "back", tmp_path / "again", serving=SERVING)


@pytest.mark.parametrize("size", ["tiny", "0.4b", "1.4b"])
@pytest.mark.parametrize("ours", [name for name in MEMBERS if name != "gdn"])
def test_every_member_of_the_family_has_settings_that_read_back(ours: str, size: str):
    config = member(ours, size)
    if ours != "lansa" and config.num_heads * config.head_dim != config.hidden_size:
        pytest.fail("attention as wide as the model was expected")
    serving = Serving(config.chunk, position_span=config.position_span)
    assert read_settings(Path("c"), write_settings("x", config), serving) == config


def test_weights_may_lie_in_parts(tmp_path: Path):
    settings = small(PUBLISHED["lalte"])
    tensors = random_tensors(settings)
    source = write(tmp_path / "m", settings, tensors)
    (source / "model.safetensors").unlink()
    parts = {n: f"model-{i % 2 + 1:05}-of-00002.safetensors" for i, n in enumerate(tensors)}
    for file in set(parts.values()):
        save_file({n: tensors[n] for n in tensors if parts[n] == file}, source / file)
    (source / "model.safetensors.index.json").write_text(json.dumps({"weight_map": parts}))
    assert read_fla(source, SERVING).tensors.keys() == tensors.keys() - {
        "model.l1_lambda",
        "model.num_kept",
    }


ROUTER = "model.layers.3.attn.router.conv_stack.convs.1.weight"
BROKEN = {
    "missing": (lambda t: t.pop(ROUTER), [f"missing: {ROUTER}"]),
    "misnamed": (
        lambda t: t.update({ROUTER + "s": t.pop(ROUTER)}),
        [f"missing: {ROUTER}", f"unexpected: {ROUTER}s"],
    ),
    "misshaped": (
        lambda t: t.update({ROUTER: torch.zeros(1, 2, 3)}),
        [f"of the wrong shape: {ROUTER} [1, 2, 3] instead of [16, 16, 1, 3]"],
    ),
    "no buffer": (lambda t: t.pop("model.l1_lambda"), ["missing: model.l1_lambda"]),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_tensor_that_does_not_fit_is_named(case: str, tmp_path: Path):
    settings = small(PUBLISHED["lalte"])
    tensors = random_tensors(settings)
    breaks, says = BROKEN[case]
    breaks(tensors)
    with pytest.raises(CheckpointError) as caught:
        read_fla(write(tmp_path / "m", settings, tensors), SERVING)
    for part in says:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model_type": "mamba"}, "model_type = 'mamba'"),
        ({"use_gate": False}, "use_gate = False (only True is supported)"),
        ({"use_short_conv": False}, "use_short_conv"),
        ({"allow_neg_eigval": True}, "allow_neg_eigval"),
        ({"num_v_heads": 16}, "num_v_heads differs"),
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu'"),
        ({"hidden_size": None}, "describes no model"),
        ({"expand_v": 1.01}, "expand_v makes value heads"),
        ({"attn": LTE | {"routing_method": "relu"}}, "attn.routing_method = 'relu'"),
        ({"attn": LTE | {"routing_shared": "layer"}}, "attn.routing_shared"),
        ({"attn": LTE | {"conv_dilation": [1, 2, 2]}}, "equal convolutions"),
        ({"attn": LTE | {"window_size": 40}}, "window: must be at least chunk + 12"),
        ({"attn": LTE | {"layers": [1, 24]}}, "outside 0..23"),
        ({"attn": NSA | {"block_counts": 2}}, "num_blocks: must be at least 3"),
        ({"attn": {k: v for k, v in NSA.items() if k != "block_size"}}, "lacks 'block_size'"),
        ({"attn": ATTENTION | {"qkv_bias": True}}, "attn.qkv_bias = True"),
    ],
)
def test_settings_that_ours_does_not_compute_are_refused(change: dict[str, Any], says: str):
    with pytest.raises(CheckpointError) as caught:
        read_settings(Path("config.json"), HYBRID | change)
    assert says in str(caught.value)


def test_models_that_the_format_lacks_are_refused():
    config = member("lalte", "tiny")
    gdn, lte = config.layers[:2]
    odd = replace(lte, budgets=(32, 31, 32, 32))
    for layers, says in [
        ((gdn, odd), "budgets differ"),
        ((gdn, lte, SWAConfig(3)), "layers of one kind differ"),
        ((gdn, replace(gdn, num_heads=3)), "layers of one kind differ"),
        ((lte, lte), "no model of these layers alone"),
    ]:
        with pytest.raises(CheckpointError, match=says):
            write_settings("m", replace(config, layers=layers))
    assert isinstance(lte, LTEConfig)
    assert isinstance(gdn, GDNConfig)


def test_kinds_of_layers_are_read_from_the_settings():
    hybrid = HYBRID | {"attn": ATTENTION | {"attn_type": "attn"}}
    published = PUBLISHED | {"gdn-attention in a hybrid": hybrid}
    kinds = {name: type(read_settings(Path("c"), x).layers[1]) for name, x in published.items()}
    assert kinds == {
        "gdn": GDNConfig,
        "gdn-swa": SWAConfig,
        "lalte": LTEConfig,
        "lansa": NSAConfig,
        "gdn-attention": FullConfig,
        "gdn-attention in a hybrid": FullConfig,
    }


def findings(folder: Path) -> dict[str, tuple[bool, str]]:
    return {f.part: (f.fits, f.detail) for f in verify(folder, SERVING)}


def test_verify_finds_everything_at_once(tmp_path: Path):
    settings = small(PUBLISHED["lalte"])
    tensors = random_tensors(settings)
    good = findings(write(tmp_path / "good", settings, tensors))
    assert all(fits for fits, _ in good.values())
    assert "2 gdn, 2 lte" in good["config.json"][1]
    assert good["weights"] == (
        True,
        f"{len(tensors)} of {len(tensors)} tensors fit by name and shape",
    )

    tensors["model.surplus"] = torch.zeros(1)
    tensors["model.norm.weight"] = torch.zeros(3)
    del tensors[ROUTER]
    bad_folder = write(tmp_path / "bad", settings, tensors)
    (bad_folder / "tokenizer.json").write_text("{}")
    bad = findings(bad_folder)
    assert bad["weights"][0] is False
    assert bad[ROUTER] == (False, "is missing")
    assert bad["model.surplus"] == (False, "belongs to no part of the model")
    assert bad["model.norm.weight"] == (False, "has shape [3] instead of [64]")
    assert bad["tokenizer"][0] is False


def test_verify_knows_our_folders_and_llamas(make, tmp_path: Path):
    settings = small(PUBLISHED["lansa"])
    source = write(tmp_path / "theirs", settings, random_tensors(settings))
    convert_fla(source, tmp_path / "ours", serving=SERVING)
    ours = findings(tmp_path / "ours")
    assert list(ours) == ["manifest", "config.json", "weights", "tokenizer"]
    assert all(fits for fits, _ in ours.values())
    with (tmp_path / "ours" / "tokenizer.json").open("a") as file:
        file.write("\n")
    assert "tokenizer.json: was altered" in findings(tmp_path / "ours")["manifest"][1]

    llama = make.hf_folder(tmp_path / "llama")
    assert all(fits for fits, _ in findings(llama).values())
    (llama / "config.json").write_text(json.dumps({"model_type": "mamba"}))
    assert findings(llama)["config.json"] == (
        False,
        "model_type 'mamba' is none of llama, gated_deltanet, hybrid_gated_deltanet, transformer",
    )
