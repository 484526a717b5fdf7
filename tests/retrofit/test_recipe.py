"""The whole recipe, from the command line, on a random model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from typer.testing import CliRunner

from lalte.checkpoints.load import load_model
from lalte.config import LTEConfig
from lalte.retrofit.config import read_config
from lalte.retrofit.errors import RetrofitError
from lalte.state import nbytes
from memoryd.cli import app

RECIPE = {
    "seed": 1,
    "threads": 1,
    "held_out_books": ["2"],
    "scan": {"sequences": 1, "tokens": 64, "window": 4, "layers": 1, "candidates": 2},
    "gdn": {
        "window": 3,
        "rank": 8,
        "sinks": 1,
        "teacher": {"steps": 2, "tokens": 64, "learning_rate": 0.003},
        "own": {"steps": 1, "tokens": 64, "learning_rate": 0.001},
        "checkpoint_steps": 1,
    },
    "distill": {
        "steps": 4,
        "tokens": 64,
        "learning_rate": 0.001,
        "memory": 0.4,
        "chat": 0.4,
        "replies": 3,
        "reply_tokens": 5,
    },
    "comparison": {"sequences": 1, "tokens": 64, "windows": [4, 8]},
    "budgets": {0: 9, 1: 9},
    "harvest": {
        "general_queries": 16,
        "training": {"count": 2, "tokens": 150, "facts": [2, 3]},
        "validation": {"count": 1, "tokens": 150, "facts": [2, 3]},
        "ordinary": {"count": 1, "tokens": 150, "facts": [0, 0]},
    },
    "fit": {
        "epochs": 1,
        "learning_rate": 0.002,
        "weight_decay": 0.01,
        "ranking": 1.0,
        "sharpness": 2.0,
        "reference_tokens": 4096,
        "bank_decay": 0.9,
        "whole_value": 0.5,
        "checkpoint_steps": 1,
    },
    "calibration": {"saturation_tokens": 64},
}


def invoke(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["train", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(RECIPE))
    return path


def test_a_recipe_makes_an_adapter_that_merges_and_can_be_asked(
    recipe: Path, base: Path, data: Path, tmp_path: Path
):
    run, result, merged = tmp_path / "run", tmp_path / "result", tmp_path / "merged"
    train = ("retrofit", recipe, "--data", data, "--run", run, "--result", result, "--model", base)
    path = Path(invoke(*train).strip().splitlines()[-1])
    first = path.read_bytes()
    facts = json.loads((result / "result.json").read_text())
    assert facts["steps"] == 3
    assert [x["tokens"] for x in facts["survival"]] == [2048, 8192, 32768, 131072]

    invoke(*train)
    assert path.read_bytes() == first

    invoke("merge", path, merged, "--model", base)
    model = load_model(merged)
    assert facts["adapter_sha256"] in model.manifest.provenance.routers
    kinds = [layer.kind for layer in model.config.layers]
    assert sorted(kinds) == ["local_gdn", "lte"]
    assert facts["gdn_layers"] == [kinds.index("local_gdn")]
    sparse = model.config.layers[kinds.index("lte")]
    assert isinstance(sparse, LTEConfig)
    assert sparse.budgets == (9, 9)
    assert facts["state_bytes"] == nbytes(model.config, torch.bfloat16)
    assert set(facts["perplexity"]) == {
        *("teacher", "gdn", "window 4", "window 4, sinks 4", "window 8", "window 8, sinks 4"),
        "adapted",
    }
    scan = json.loads((run / "scan.json").read_text())
    assert {"0", "1"} == set(scan)
    # An adapted model is as good a base as the one that it was made of.
    again = ("retrofit", recipe, "--data", data, "--run", tmp_path / "run2")
    invoke(*again, "--result", tmp_path / "result2", "--model", merged)
    assert (tmp_path / "result2" / path.name).read_bytes() == first
    ask = ("eval", "single_1", "--data", data, "--recipe", recipe, "--model", merged, "--json")
    ask += ("--length", 600, "--samples", 2, "--one-prompt", "--threads", 1)
    shown = CliRunner().invoke(app, [*map(str, ask)])
    cell = json.loads(shown.stdout)
    assert (cell["task"], cell["length"], cell["samples"]) == ("single_1", 600, 2)
    assert facts["adapter_sha256"] in cell["routers"]


def test_the_shipped_recipe_is_valid():
    import lalte

    recipes = list((Path(lalte.__file__).parent / "adapters").glob("*/recipe.yaml"))
    assert recipes
    for path in recipes:
        read_config(path)


def test_a_wrong_setting_is_named(recipe: Path):
    recipe.write_text(yaml.safe_dump(RECIPE | {"seed": "x", "speed": 1}))
    with pytest.raises(RetrofitError, match=r"seed: .*speed: "):
        read_config(recipe)
    with pytest.raises(RetrofitError, match="cannot be read"):
        read_config(recipe.with_name("absent.yaml"))


def test_missing_data_is_one_line(recipe: Path, base: Path, tmp_path: Path):
    result = CliRunner().invoke(
        app,
        [
            "train",
            "retrofit",
            *map(str, (recipe, "--data", tmp_path, "--run", tmp_path / "r")),
            *map(str, ("--result", tmp_path / "o", "--model", base)),
        ],
    )
    assert result.exit_code == 1
    assert "books.jsonl.xz: does not exist" in result.output
