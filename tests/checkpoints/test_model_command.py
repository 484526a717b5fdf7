import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from lalte.checkpoints.tiny import write_tiny_model
from lalte.presets import tiny_lalte
from lalte.state import nbytes
from memoryd.cli import app


@pytest.fixture
def run(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    return lambda *args: CliRunner().invoke(app, ["model", *map(str, args)])


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    write_tiny_model(tmp_path / "tiny")
    return tmp_path / "tiny"


def test_info_describes_a_model(run, tiny: Path):
    result = run("info", tiny)
    assert result.exit_code == 0
    for part in ("tiny-random", "0: gdn", "1: lte window 20, budgets (12, 9)", "mean nothing"):
        assert part in result.stdout


@pytest.mark.parametrize(
    ("kinds", "cost"),
    [
        (("gdn", "lte"), "{} bytes, at any length of its stream"),
        (("gdn", "full", "nsa"), "{} bytes, and 256 more for each token"),
    ],
)
def test_info_says_what_a_session_costs(run, tmp_path: Path, kinds, cost):
    config = tiny_lalte(kinds)
    write_tiny_model(tmp_path / "m", config=config)
    facts = json.loads(run("info", tmp_path / "m", "--json").stdout)
    assert facts["session"] == cost.format(f"{nbytes(config, torch.bfloat16):,}")


def test_info_prints_json(run, tiny: Path):
    facts = json.loads(run("info", tiny, "--json").stdout)
    assert facts["routers"] == "random"
    assert facts["config"]["chunk"] == 8
    assert len(facts["layers"]) == 4


def test_convert_writes_a_folder_and_says_what_to_expect(run, make, tmp_path: Path):
    source = make.hf_folder(tmp_path / "m")
    result = run("convert", source, tmp_path / "out", "--budget", 100, "--license", "MIT")
    assert result.exit_code == 0
    assert result.stdout.strip() == str(tmp_path / "out")
    assert "routers are untrained" in result.stderr
    facts = json.loads(run("info", tmp_path / "out", "--json").stdout)
    assert facts["layers"] == [
        "0-2: lte window 256, budgets (100, 100), sinks 4, router_kernel 3, router_dilation 2"
    ]
    assert (facts["license"], facts["routers"]) == ("MIT", "untrained")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["info", "absent"], "there is no model here; run `memoryd model pull`"),
        (["convert", "absent", "out"], "does not exist"),
        (["convert", "m", "tiny"], "exists already"),
        (["convert", "m", "out", "--window", "8"], "window"),
    ],
)
def test_errors_are_one_line_with_exit_code_1(
    run, make, tiny: Path, tmp_path: Path, monkeypatch, arguments, message: str
):
    make.hf_folder(tmp_path / "m")
    monkeypatch.chdir(tmp_path)
    result = run(*arguments)
    assert result.exit_code == 1
    error = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(error) == 1
    assert message in error[0]
    assert "Traceback" not in result.stderr
