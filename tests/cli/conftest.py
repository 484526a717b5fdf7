"""A daemon started by `memoryd serve` itself, and the commands run in this process against it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lalte.checkpoints.tiny import write_tiny_model
from memoryd.cli import app

MEMORYD = [sys.executable, "-c", "from memoryd.cli import main; main()"]


class Served:
    """`memoryd serve` as a process; `target` once it is ready."""

    def __init__(self, folder: Path, model: Path, *flags: str) -> None:
        self.process = subprocess.Popen(
            [
                *MEMORYD,
                "serve",
                f"--model={model}",
                "--listen=127.0.0.1:0",
                f"--data-dir={folder}",
                "--log-format=json",
                "--threads=1",
                *flags,
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self.process.stdout is not None
        self.log: list[str] = []
        for line in self.process.stdout:
            self.log.append(line)
            if '"ready"' in line:
                self.target = json.loads(line)["address"]
                break
        else:
            raise AssertionError("memoryd serve ended: " + "".join(self.log))
        self._reader = threading.Thread(target=self.log.extend, args=[self.process.stdout])
        self._reader.start()

    def end(self) -> int:
        """SIGTERM, and the exit code."""
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(60)
        self._reader.join()
        self.process.stdout.close()
        return code


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli-model") / "tiny"
    write_tiny_model(folder, seed=0)
    return folder


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """A folder whose path leaves room for a unix socket's name."""
    folder = Path(tempfile.mkdtemp(prefix="mdc"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def served(tiny_folder: Path) -> Iterator[Served]:
    folder = Path(tempfile.mkdtemp(prefix="mdc"))
    running = Served(folder, tiny_folder)
    yield running
    code = running.end()
    shutil.rmtree(folder, ignore_errors=True)
    assert code == 0, "".join(running.log[-20:])


@pytest.fixture
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of the machine that runs the tests reaches a command."""
    for name in list(os.environ):
        if name.startswith("MEMORYD_"):
            monkeypatch.delenv(name)


@pytest.fixture
def run(clean_environment: None) -> Callable[..., Any]:
    """run("session", "ls", ..., stdin=b"", env={}) -> result with exit_code, stdout, stderr."""

    def call(*arguments: str, stdin: bytes = b"", env: dict[str, str] | None = None) -> Any:
        return CliRunner().invoke(app, list(arguments), input=stdin, env=env)

    return call


@pytest.fixture
def memoryd(run: Callable[..., Any], served: Served) -> Callable[..., Any]:
    """The same against the served daemon; the command must succeed unless told otherwise."""

    def call(*arguments: str, stdin: bytes = b"", code: int = 0) -> Any:
        result = run(*arguments, stdin=stdin, env={"MEMORYD_TARGET": served.target})
        assert result.exit_code == code, (result.stdout, result.stderr, result.exception)
        return result

    return call
