"""`memoryd data tokenize`: text files become one file of ids, or one line says why not."""

import json
import lzma
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lalte.checkpoints.tiny import write_tiny_model
from lalte.text import Tokenizer
from lalte.train.tokens import TokenFile
from memoryd.cli import app


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    write_tiny_model(folder)
    return folder


def tokenize(model: Path, out: Path, *arguments: str) -> tuple[int, str]:
    command = ["data", "tokenize", *arguments, "--out", str(out), "--model", str(model)]
    found = CliRunner().invoke(app, command)
    return found.exit_code, found.output


def test_texts_and_lines_of_json_become_one_file(model: Path, tmp_path: Path):
    (tmp_path / "a.txt").write_text("the first document")
    lines = "".join(json.dumps({"body": text}) + "\n" for text in ("second", "thïrd"))
    (tmp_path / "b.jsonl.xz").write_bytes(lzma.compress(lines.encode()))
    sources = [str(tmp_path / "a.txt"), str(tmp_path / "b.jsonl.xz")]
    code, said = tokenize(model, tmp_path / "c.tokens", *sources, "--field", "body", "--json")
    assert code == 0, said
    file = TokenFile(tmp_path / "c.tokens")
    assert json.loads(said)["tokens"] == file.facts.tokens
    tokenizer = Tokenizer.load(model)
    expected = [
        token
        for text in ("the first document", "second", "thïrd")
        for token in [*tokenizer.encode_plain(text), file.facts.end_id]
    ]
    assert file.rows(0, file.facts.tokens).tolist() == expected


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.csv", "x", "neither .txt nor .jsonl"),
        ("a.jsonl", '{"text": "x"}\n{"other": 1}\n', "line 2"),
        ("a.jsonl", '{"text": 3}\n', "no text"),
        ("a.jsonl", "nonsense\n", "line 1"),
    ],
)
def test_a_source_that_does_not_fit_is_named_and_nothing_is_written(
    model: Path, tmp_path: Path, name: str, content: str, reason: str
):
    (tmp_path / name).write_text(content)
    code, said = tokenize(model, tmp_path / "c.tokens", str(tmp_path / name))
    assert code == 1
    assert name in said
    assert reason in said.replace("\n", " ")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_source_that_is_not_there_is_named(model: Path, tmp_path: Path):
    code, said = tokenize(model, tmp_path / "c.tokens", str(tmp_path / "no.txt"))
    assert code == 1
    assert "no.txt" in said.replace("\n", "")
