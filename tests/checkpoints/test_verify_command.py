"""`memoryd model convert`, `verify` and `export` over flash-linear-attention's layout."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lalte.checkpoints.tiny import write_tiny_model
from lalte.config import GDNConfig, LTEConfig
from lalte.presets import tiny_lalte
from memoryd.cli import app


@pytest.fixture
def run(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    return lambda *args: CliRunner().invoke(app, ["model", *map(str, args)])


@pytest.fixture
def theirs(run, tmp_path: Path) -> Path:
    """A folder of their layout, made from ours."""
    layers = (GDNConfig(2, 16, 16), LTEConfig(20, (12, 12)))
    write_tiny_model(tmp_path / "ours", config=replace(tiny_lalte(), layers=layers))
    assert run("export", tmp_path / "ours", tmp_path / "theirs").exit_code == 0
    return tmp_path / "theirs"


def test_an_exported_folder_fits_and_converts_back(run, theirs: Path, tmp_path: Path):
    result = run("verify", theirs, "--chunk", 8)
    assert result.exit_code == 0, result.output
    assert "does not fit" not in result.stdout
    for part in (
        "hybrid_gated_deltanet: 2 layers (1 gdn, 1 lte), hidden 64",
        "tensors fit by name",
    ):
        assert part in result.stdout
    back = run("convert", theirs, tmp_path / "back", "--chunk", 8, "--position-span", 48)
    assert back.exit_code == 0, back.output
    facts = json.loads(run("info", tmp_path / "back", "--json").stdout)
    assert facts["layers"][1].startswith("1: lte window 20, budgets (12, 12)")
    assert run("verify", tmp_path / "back").exit_code == 0


def test_what_does_not_fit_is_a_line_each_and_exit_code_1(run, theirs: Path):
    settings = json.loads((theirs / "config.json").read_text())
    settings["attn"]["num_kv_heads"] = 4
    (theirs / "config.json").write_text(json.dumps(settings))
    result = run("verify", theirs, "--chunk", 8, "--json")
    assert result.exit_code == 1
    wrong = {f["part"]: f["detail"] for f in json.loads(result.stdout) if not f["fits"]}
    assert wrong["model.layers.1.attn.k_proj.weight"] == "has shape [32, 64] instead of [64, 64]"
    assert "weights" in wrong


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["convert", "theirs", "out", "--window", "8"], "leave out --window"),
        (["convert", "theirs", "out"], "must be at least chunk + 12"),
        (["convert", "theirs", "ours", "--chunk", "8"], "exists already"),
        (["export", "ours", "theirs"], "exists already"),
        (["verify", "absent"], "there is no model here"),
    ],
)
def test_errors_are_one_line(run, theirs: Path, tmp_path: Path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    result = run(*arguments)
    assert result.exit_code == 1
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
