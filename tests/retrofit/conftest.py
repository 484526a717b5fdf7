from __future__ import annotations

import json
import lzma
from pathlib import Path

import pytest
import torch

from lalte.checkpoints.folder import write_model_folder
from lalte.checkpoints.load import LoadedModel, load_model
from lalte.checkpoints.manifest import UNTRAINED, Provenance
from lalte.checkpoints.tiny import tiny_tokenizer_json
from lalte.init import random_model
from lalte.presets import tiny_lalte
from lalte.retrofit.corpus import Corpus, read_corpus
from lalte.retrofit.data import StreamShape, StreamWriter
from lalte.retrofit.harvest import HarvestPlan, harvest
from lalte.retrofit.voices import TRAINING_VOICES
from lalte.text import TurnFormat

HELD_OUT = ("2",)
BASE_SHA256 = "b" * 64


@pytest.fixture(autouse=True)
def one_thread_and_one_seed():
    torch.set_num_threads(1)
    torch.manual_seed(20)


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    books = [{"id": str(n), "title": f"Book {n}", "text": book_text(n)} for n in range(4)]
    dialogues = [
        {"turns": [["user", f"I want a room for {n} days."], ["system", "Which town do you like?"]]}
        for n in range(30)
    ]
    write_rows(folder / "books.jsonl.xz", books)
    write_rows(folder / "dialogues.jsonl.xz", dialogues)
    return folder


def book_text(number: int) -> str:
    return "".join(
        f"In chapter {i} of book {number} they would go over the hill.  \n“What is there?” they\n"
        "asked. Nobody knew it, and the day was long!\n\n"
        for i in range(200)
    )


def write_rows(path: Path, rows: list[dict]) -> None:
    path.write_bytes(lzma.compress("\n".join(json.dumps(row) for row in rows).encode()))


@pytest.fixture(scope="session")
def corpus(data: Path) -> Corpus:
    return read_corpus(data, HELD_OUT, held_out=False)


@pytest.fixture(scope="session")
def base(tmp_path_factory) -> Path:
    """A small random Llama with LTE in every layer and routers that keep everything."""
    folder = tmp_path_factory.mktemp("models") / "base"
    write_base(folder)
    return folder


def write_base(folder: Path) -> None:
    config = tiny_lalte(("lte", "lte"))
    model = random_model(config, seed=1)
    for name, parameter in model.named_parameters():
        if ".router." in name:
            parameter.data.fill_(0.5 if name.endswith("proj.bias") else 0)
    write_model_folder(
        folder,
        config=config,
        tensors=model.state_dict(),
        tokenizer_json=tiny_tokenizer_json(config.vocab_size),
        turn_format=TurnFormat.plain(frozenset({0})),
        provenance=Provenance("tiny", "random", BASE_SHA256, UNTRAINED, "Apache-2.0", ("bare",)),
    )


@pytest.fixture(scope="session")
def loaded(base: Path) -> LoadedModel:
    return load_model(base)


@pytest.fixture
def writer(corpus: Corpus, loaded: LoadedModel) -> StreamWriter:
    shape = StreamShape(tokens=200, facts=(2, 4))
    return StreamWriter(corpus, TRAINING_VOICES, loaded.tokenizer, loaded.turn_format, shape)


@pytest.fixture
def plan() -> HarvestPlan:
    return HarvestPlan(
        seed=3,
        layers=(0, 1),
        window=20,
        general_queries=30,
        templates="training",
        tokens=200,
        facts=(2, 4),
        base_sha256=BASE_SHA256,
        data_sha256="",
    )


@pytest.fixture
def shards(loaded: LoadedModel, writer: StreamWriter, plan: HarvestPlan, tmp_path: Path):
    return harvest(loaded.model, writer, plan, 3, tmp_path / "shards")
