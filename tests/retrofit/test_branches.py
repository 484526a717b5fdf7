"""A scan finds what can be replaced, branches are fitted to it; both go on where they stopped."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import torch

from lalte.checkpoints.load import LoadedModel
from lalte.config import LocalGDNConfig
from lalte.init import random_model
from lalte.presets import tiny_lalte
from lalte.retrofit.branches import LOG_FILE, BranchFitting, distill
from lalte.retrofit.config import PhaseConfig, ScanConfig
from lalte.retrofit.corpus import Corpus
from lalte.retrofit.plain_text import PlainText
from lalte.retrofit.scan import SCAN_FILE, scan
from lalte.retrofit.student import Student

BRANCH = LocalGDNConfig(window=4, rank=8, sinks=1)
TOKENS = 64


@pytest.fixture
def text(corpus: Corpus, loaded: LoadedModel) -> PlainText:
    return PlainText(corpus, loaded.tokenizer, loaded.turn_format)


def phases(steps: int):
    phase = PhaseConfig(steps=steps, tokens=TOKENS, learning_rate=0.01)
    return [("teacher", phase), ("own", phase), ("distill", phase)]


def fitting(text: PlainText, run: Path) -> BranchFitting:
    base = random_model(tiny_lalte(("lte", "lte", "lte")), 3, torch.bfloat16)
    student = Student(base, {0: BRANCH, 2: BRANCH}, seed=1)
    return BranchFitting(student, lambda _, index, length: text.write(5, index, length), run)


class Stopped(Exception):
    """What breaks a fit off, as a signal would."""


def test_an_interrupted_fit_equals_an_uninterrupted_one(text: PlainText, tmp_path: Path):
    whole = fitting(text, tmp_path / "whole").fit(phases(2), 1)

    def write(limit: int, _: str, index: int, length: int) -> torch.Tensor:
        if index == limit:
            raise Stopped
        return text.write(5, index, length)

    for limit in (1, 3, 5):
        broken = fitting(text, tmp_path / "broken")
        broken._write = partial(write, limit)
        with pytest.raises(Stopped):
            broken.fit(phases(2), 1)
    resumed = fitting(text, tmp_path / "broken").fit(phases(2), 1)
    for name, parameter in whole.masters.items():
        assert torch.equal(parameter, resumed.masters[name]), name
    log = (tmp_path / "broken" / LOG_FILE).read_text().splitlines()
    kinds = [json.loads(line)["phase"] for line in log]
    assert kinds == ["teacher", "teacher", "own", "own", "distill", "distill"]


def test_fitting_brings_the_student_nearer_to_its_teacher(text: PlainText, tmp_path: Path):
    made = fitting(text, tmp_path)
    tokens = text.write(6, 0, TOKENS)
    frozen = {n: x.clone() for n, x in made.student.model.state_dict().items()}
    before = distill(made.student, tokens)
    student = made.fit(phases(12), 100)
    after = distill(student, tokens)
    assert after < 0.9 * before
    changed = {n for n, x in student.model.state_dict().items() if not torch.equal(x, frozen[n])}
    assert changed == set(student.masters)


def test_a_scan_finds_the_layers_whose_attention_does_not_matter(
    text: PlainText, tmp_path: Path, monkeypatch
):
    base = random_model(tiny_lalte(("lte",) * 4), 3, torch.bfloat16)
    for index in (1, 3):
        base.blocks()[index].attn.o_proj.weight.data.zero_()
    teacher = Student(base, {}, seed=1)
    config = ScanConfig(sequences=2, tokens=TOKENS, window=4, layers=2, candidates=3)
    sequences = [text.write(7, i, TOKENS) for i in range(2)]
    assert scan(teacher, sequences, config, tmp_path, sinks=0) == [1, 3]
    losses = json.loads((tmp_path / SCAN_FILE).read_text())
    # Targets are kept in half precision, so a loss of nothing is not quite 0.
    assert abs(losses["1"]) < 0.01 < losses["0"]
    assert abs(losses["1 3"]) < 0.01

    # Whoever sees all first tokens loses nothing.
    scan(teacher, sequences, config, tmp_path / "sinks", sinks=TOKENS)
    seeing = json.loads((tmp_path / "sinks" / SCAN_FILE).read_text())
    assert all(abs(loss) < 0.01 for loss in seeing.values())

    monkeypatch.setattr("lalte.retrofit.scan._Scanner.loss", None)
    assert scan(teacher, sequences, config, tmp_path, sinks=0) == [1, 3]


def test_sequences_are_functions_of_seed_and_index(text: PlainText):
    sequences = [text.write(1, index, 300) for index in range(30)]
    assert all(x.shape == (300,) for x in sequences)
    assert torch.equal(text.write(1, 7, 300), sequences[7])
    assert not torch.equal(text.write(2, 7, 300), sequences[7])
    assert len({tuple(x.tolist()) for x in sequences}) == 30
