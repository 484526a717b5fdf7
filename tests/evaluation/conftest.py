from __future__ import annotations

import json
import lzma
from pathlib import Path

import pytest
import torch

from lalte.checkpoints.load import LoadedModel, load_model
from lalte.checkpoints.tiny import write_tiny_model
from lalte.evaluation.tasks import Sources
from lalte.presets import tiny_lalte

HELD_OUT = ("205", "36")  # of the shipped recipe


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    """Books, dialogues and paragraphs in the form of the real ones."""
    folder = tmp_path_factory.mktemp("texts")
    books = [{"id": name, "text": book_text(name)} for name in ("1", *HELD_OUT)]
    dialogues = [
        {"turns": [["user", f"I want a room for {n} days."], ["system", f"Which town, {n}?"]]}
        for n in range(40)
    ]
    paragraphs = [
        {
            "context": f"In year {n} the town of X{n} was made by the people of Y{n}.",
            "qas": [
                {"question": f"When was X{n} made?", "answers": [f"year {n}"]},
                {"question": f"Who made X{n}?", "answers": [f"the people of Y{n}", f"Y{n}"]},
            ],
        }
        for n in range(12)
    ]
    write_rows(folder / "books.jsonl.xz", books)
    write_rows(folder / "dialogues.jsonl.xz", dialogues)
    write_rows(folder / "squad_en.jsonl.xz", paragraphs)
    return folder


def book_text(name: str) -> str:
    return "".join(
        f"In chapter {i} of book {name} they would go over the hill.  \n“What is there?” they\n"
        "asked. Nobody knew it, and the day was long!\n\n"
        for i in range(60)
    )


def write_rows(path: Path, rows: list[dict]) -> None:
    path.write_bytes(lzma.compress("\n".join(json.dumps(row) for row in rows).encode()))


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    """A tiny random model with attention of one kind or another in every layer."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    write_tiny_model(folder, seed=0, config=tiny_lalte(("local_gdn", "lte", "lte")))
    return folder


@pytest.fixture(scope="session")
def loaded(folder: Path) -> LoadedModel:
    return load_model(folder)


@pytest.fixture(scope="session")
def exact(folder: Path) -> LoadedModel:
    """The same in fp32."""
    return load_model(folder, dtype=torch.float32)


@pytest.fixture(scope="session")
def sources(loaded: LoadedModel, data: Path) -> Sources:
    return Sources(loaded.tokenizer, data, HELD_OUT)
