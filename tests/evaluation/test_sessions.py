"""Evaluations through a live daemon, by its readers and by the command."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from harness.daemons import DaemonProcess
from lalte.checkpoints.load import LoadedModel
from lalte.checkpoints.tiny import write_tiny_model
from lalte.evaluation import variants
from lalte.evaluation.reading import StateReader
from lalte.evaluation.tasks import TASKS, Sources, make_task
from memoryd.cli import app
from memoryd.evaluation.sessions import SessionReader

ASKED = [name for name in TASKS if name not in ("perplexity", "completion")]


@contextmanager
def serving(folder: Path, **settings: object) -> Iterator[DaemonProcess]:
    place = Path(tempfile.mkdtemp(prefix="mdv"))  # a unix socket's path must be short
    running = DaemonProcess(place, model=folder, **settings)
    yield running
    running.terminate()
    shutil.rmtree(place, ignore_errors=True)


@pytest.fixture(scope="module")
def daemon(folder: Path) -> Iterator[DaemonProcess]:
    with serving(folder) as running:
        yield running


@pytest.fixture(scope="module")
def exact_daemon(folder: Path) -> Iterator[DaemonProcess]:
    """In fp32: how a daemon cuts a prompt and batches replies then changes no token."""
    with serving(folder, dtype="float32") as running:
        yield running


@pytest.fixture
def evaluate(daemon: DaemonProcess, folder: Path, data: Path) -> Any:
    def call(task: str, *options: object, code: int = 0) -> list[dict[str, Any]] | str:
        common = ["--model", folder, "--data", data, "--target", daemon.address, "--json"]
        arguments = ["eval", task, *common, "--threads", 1, *options]
        result = CliRunner().invoke(app, [str(x) for x in arguments])
        assert result.exit_code == code, (result.output, result.exception)
        return (
            [json.loads(line) for line in result.stdout.splitlines()] if not code else result.stderr
        )

    return call


@pytest.mark.parametrize("name", ASKED)
def test_a_session_replies_as_the_same_memory_in_process(
    name: str, exact_daemon: DaemonProcess, exact: LoadedModel, sources: Sources
):
    task = make_task(name, sources, per_stream=3)
    sample = task.write(4 if name == "documents" else 400, 1, 0, 3)
    text = exact.tokenizer, exact.turn_format
    read = []
    with exact_daemon.client() as client:
        through = SessionReader(client, exact.config, *text, at_once=3, on_tokens=read.append)
        found = through.answer(sample)
        assert not list(client.list_sessions(prefix="eval-"))
    expected = StateReader(variants.as_it_is(exact.model), *text).answer(sample)
    assert found == expected
    assert sum(read) == found[0].tokens
    if name.startswith("single"):
        assert all(reply.kept for reply in found)


@pytest.mark.parametrize("name", ["single_1", "single_3"])
def test_a_haystack_read_once_gives_the_replies_of_streams_apart(
    name: str, exact_daemon: DaemonProcess, exact: LoadedModel, sources: Sources
):
    task = make_task(name, sources, per_haystack=4)
    samples = [task.write(900, 1, index, 1) for index in range(4)]
    samples.append(samples[1])  # two that part at one place
    read: list[int] = []
    with exact_daemon.client() as client:
        text = exact.config, exact.tokenizer, exact.turn_format
        apart = [SessionReader(client, *text).answer(sample) for sample in samples]
        together = SessionReader(client, *text, at_once=2, on_tokens=read.append)
        assert list(together.answer_together(samples)) == apart
        assert not list(client.list_sessions(prefix="eval-"))
    assert sum(read) < sum(replies[0].tokens for replies in apart)


def test_each_cell_is_one_object_with_its_facts(evaluate: Any, loaded: LoadedModel):
    cells = evaluate("single_1", "--length", 300, "--length", 500, "--samples", 2, "--seed", 7)
    assert [cell["length"] for cell in cells] == [300, 500]
    for cell in cells:
        assert (cell["task"], cell["samples"], cell["seed"]) == ("single_1", 2, 7)
        assert cell["model"] == loaded.fingerprint
        assert (cell["memory"], cell["form"]) == ("own", "session")
        assert cell["asked"] == 2
        assert cell["ci95"][0] <= cell["accuracy"] <= cell["ci95"][1]
        assert cell["state_bytes"] == variants.as_it_is(loaded.model).state_bytes
        assert set(cell["kept_by"]) == {"1", "2"}


def test_a_session_and_a_prompt_give_one_figure(evaluate: Any):
    options = ("--length", 64, "--samples", 6, "--per-stream", 3)
    (session,), (prompt,) = (evaluate("mqar", *options, *more) for more in ((), ("--one-prompt",)))
    same = {"right", "asked", "answers", "state_bytes", "tokens"}
    assert {name: session[name] for name in same} == {name: prompt[name] for name in same}
    assert (session["form"], prompt["form"]) == ("session", "process")


@pytest.mark.parametrize("memory", ["full", "window", "random", "attended", "local"])
def test_baselines_stand_beside_the_memory(evaluate: Any, memory: str):
    (cell,) = evaluate("single_2", "--length", 400, "--samples", 2, "--memory", memory)
    assert (cell["memory"], cell["form"], cell["asked"]) == (memory, "process", 2)
    (cell,) = evaluate("perplexity", "--length", 100, "--samples", 2, "--memory", memory)
    assert cell["perplexity"] > 1
    assert cell["blocks"] == [
        {"first": 0, "last": 100, "perplexity": pytest.approx(cell["perplexity"], rel=1e-4)}
    ]


def test_full_attention_agrees_with_itself_on_instructions(evaluate: Any):
    (cell,) = evaluate("instructions", "--samples", 2, "--memory", "full")
    assert cell["asked"] == 2
    (own,) = evaluate("instructions", "--samples", 2)
    assert 0 <= own["accuracy"] <= 1


def test_cells_that_are_done_are_not_measured_again(
    evaluate: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    results = tmp_path / "new" / "results.jsonl"
    options = ("--samples", 2, "--per-stream", 2, "--results", results)
    (first,) = evaluate("mqar", "--length", 32, *options)
    both = evaluate("mqar", "--length", 32, "--length", 64, *options)
    assert both[0] == first
    assert [json.loads(line) for line in results.read_text().splitlines()] == both
    # A broken-off cell leaves those before it.
    monkeypatch.setattr(SessionReader, "answer", lambda *_: 1 / 0)
    evaluate("mqar", "--length", 32, "--length", 96, *options, code=1)
    assert len(results.read_text().splitlines()) == 2


def test_other_options_are_other_cells(evaluate: Any, tmp_path: Path):
    results = tmp_path / "results.jsonl"
    changes: tuple[tuple[object, ...], ...] = (
        (),
        ("--seed", 2),
        ("--one-prompt",),
        ("--label", "mine"),
        ("--per-stream", 2),
        ("--memory", "full"),
        ("--state-limit", 50_000),
    )
    for count, change in enumerate(changes, 1):
        evaluate("mqar", "--length", 32, "--samples", 2, "--results", results, *change)
        assert len(results.read_text().splitlines()) == count
    for more, change in enumerate(((), ("--per-haystack", 2)), 1):
        evaluate("single_1", "--length", 300, "--samples", 2, "--results", results, *change)
        assert len(results.read_text().splitlines()) == len(changes) + more


def test_mistakes_are_one_line(evaluate: Any, tmp_path: Path):
    assert "single_1" in evaluate("single_9", "--length", 100, code=1)
    assert "is no memory" in evaluate("mqar", "--length", 32, "--memory", "vast", code=1)
    assert "--rows" in evaluate("completion", code=1)
    other = tmp_path / "other"
    write_tiny_model(other, seed=9)
    assert "serves the model" in evaluate("mqar", "--length", 32, "--model", other, code=1)


def test_without_a_daemon_it_starts_one(folder: Path):
    arguments = ["eval", "mqar", "--model", folder, "--length", 32, "--samples", 1, "--threads", 1]
    result = CliRunner().invoke(app, [str(x) for x in arguments])
    assert result.exit_code == 0, (result.output, result.exception)
    assert "of 1 right" in result.stdout


def test_a_terminated_evaluation_takes_its_daemon_and_folder_along(folder: Path):
    code = (
        "import sys, threading\n"
        "from pathlib import Path\n"
        "from memoryd.evaluation.own_daemon import own_daemon\n"
        "with own_daemon(Path(sys.argv[1]), threads=1) as address:\n"
        "    print(address, flush=True)\n"
        "    threading.Event().wait()\n"
    )
    short = tempfile.mkdtemp(prefix="mdv")
    with subprocess.Popen(
        [sys.executable, "-c", code, str(folder)],
        env={**os.environ, "TMPDIR": short},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        host, _, port = process.stdout.readline().strip().rpartition(":")
        socket.create_connection((host, int(port))).close()
        process.terminate()
        assert process.wait(60) == -signal.SIGTERM
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, int(port)))
    assert not list(Path(short).iterdir())
    Path(short).rmdir()
