"""The examples and the README's client code run against a daemon."""

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.daemons import DaemonProcess
from lalte.checkpoints.tiny import write_tiny_model

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def daemon() -> Iterator[DaemonProcess]:
    # Not under pytest's folders: a unix socket's path must be short.
    folder = Path(tempfile.mkdtemp(prefix="mde"))
    write_tiny_model(folder / "model", seed=0)
    running = DaemonProcess(folder / "data", model=folder / "model", default_reply_tokens=16)
    yield running
    running.terminate()
    shutil.rmtree(folder, ignore_errors=True)


def run(*command: str | Path, said: str = "", folder: Path = ROOT) -> str:
    """What a Python program prints."""
    done = subprocess.run(
        [sys.executable, *command],
        input=said,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=120,
        check=False,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_chatbot_remembers_both_sides_of_each_turn(daemon: DaemonProcess) -> None:
    program = ROOT / "examples" / "chatbot.py"
    run(program, "ada", daemon.address, said="My name is Ada.\nWhat is my name?\n")
    with daemon.client() as client:
        once = client.get_session("user-ada")
    assert once.ttl is not None
    run(program, "ada", daemon.address, said="And now?\n")
    with daemon.client() as client:
        assert client.get_session("user-ada").acked_tokens > once.acked_tokens > 0


def test_document_qa_answers_about_all_of_its_input(daemon: DaemonProcess) -> None:
    text = "The sun is yellow. " * 200
    said = run(ROOT / "examples" / "document_qa.py", "What?", daemon.address, said=text)
    read = re.findall(r"\[([\d,]+) tokens read\]", said)
    # A byte-level tokenizer's tokens are at most a few bytes long.
    assert int(read[-1].replace(",", "")) > len(text) // 8
    with daemon.client() as client:
        assert not list(client.list_sessions(prefix="document-qa"))


def test_readme_client_example_runs(daemon: DaemonProcess, tmp_path: Path) -> None:
    code = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert code
    assert "127.0.0.1:7420" in code[1]
    (tmp_path / "book.txt").write_text("It was a dark night. " * 50)
    program = tmp_path / "readme.py"
    program.write_text(code[1].replace("127.0.0.1:7420", daemon.address))
    run(program, folder=tmp_path)
    with daemon.client() as client:
        assert client.get_session("ada").acked_tokens > 100
