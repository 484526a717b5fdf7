"""`memoryd model convert` and `verify` with a repository of the hub, as a person calls them."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest
from click.testing import Result
from typer.testing import CliRunner

from harness.hub_server import Hub, Repository, serve_hub
from memoryd.cli import app

NAME = "someone/a-model"


@pytest.fixture
def hub(make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("COLUMNS", "200")
    with serve_hub() as hub:
        hub.repositories[NAME] = Repository(make.hf_folder(tmp_path / "published"))
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.url)
        yield hub


@pytest.fixture
def run() -> Callable[..., Result]:
    return lambda *args: CliRunner().invoke(app, ["model", *args])


def test_verify_then_convert_downloads_once_and_says_whence(hub: Hub, run, tmp_path: Path):
    seen = run("verify", NAME)
    assert seen.exit_code == 0, seen.output
    assert "llama, 3 layers" in seen.stdout
    assert run("convert", NAME, "ours", "--revision", "main", "--window", "128").exit_code == 0
    assert [name for name, _ in hub.files_asked_for()].count("model.safetensors") == 1
    facts = json.loads(run("info", "ours", "--json").stdout)
    commit = hub.repositories[NAME].commit
    assert facts["source"] == f"{NAME} at {commit} on the Hugging Face hub"
    assert facts["license"] == "mit"
    assert {line.split()[0] for line in facts["source_files"]} == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert list((tmp_path / "xdg").rglob("*.safetensors")) == []  # converted, so deleted


def test_a_refused_conversion_keeps_the_download(hub: Hub, run, tmp_path: Path):
    refused = run("convert", NAME, "ours", "--window", "1")
    assert refused.exit_code == 1
    assert len(list((tmp_path / "xdg").rglob("model.safetensors"))) == 1
    hub.requests.clear()
    assert run("convert", NAME, "ours").exit_code == 0
    assert hub.files_asked_for() == []


def test_a_folder_of_that_name_goes_first_and_that_is_said(hub: Hub, run, make, tmp_path: Path):
    (tmp_path / "someone").mkdir()
    make.hf_folder(tmp_path / NAME)
    result = run("convert", NAME, "ours")
    assert result.exit_code == 0, result.output
    assert f"{NAME} is here, and is used: the hub's repository of that name is not" in result.stderr
    assert hub.requests == []
    assert "is here" not in run("verify", f"./{NAME}").stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["convert", NAME, "published"], "published: exists already"),
        (["convert", "no/such", "ours"], "no/such: is neither a folder here nor a repository"),
        (["verify", "no/such"], "no/such: is neither a folder here nor a repository"),
        (["convert", NAME, "ours", "--revision", "v9"], "has no revision 'v9' on the hub"),
        (["verify", "published", "--revision", "main"], "published lies on this machine; --rev"),
        (["verify", "x", "--revision", "main"], "x does not exist, and is no ORGANISATION/NAME"),
        (["convert", "./no/such", "ours"], "no/such: does not exist"),
    ],
)
def test_what_cannot_be_is_one_line(hub: Hub, run, arguments: list[str], message: str):
    result = run(*arguments)
    assert result.exit_code == 1
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert message in last
    assert hub.files_asked_for() == []


def test_the_endpoint_is_read_from_the_environment(hub: Hub, tmp_path: Path):
    told = subprocess.run(
        [sys.executable, "-m", "memoryd", "model", "verify", NAME, "--json"],
        env=os.environ | {"HF_ENDPOINT": hub.url},
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 0, told.stderr
    assert all(finding["fits"] for finding in json.loads(told.stdout))
    assert "error" not in told.stderr.lower()
