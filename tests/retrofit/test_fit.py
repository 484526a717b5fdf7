from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lalte.checkpoints.load import LoadedModel
from lalte.retrofit.config import FitConfig
from lalte.retrofit.data import StreamWriter
from lalte.retrofit.errors import RetrofitError
from lalte.retrofit.fit import LOG_FILE, Fitting
from lalte.retrofit.harvest import HarvestPlan, harvest, read_shard
from lalte.retrofit.recipe import digit_tokens

CONFIG = FitConfig(
    epochs=20,
    learning_rate=0.01,
    weight_decay=0.01,
    ranking=1.0,
    sharpness=2.0,
    reference_tokens=4096,
    bank_decay=0.9,
    whole_value=0.5,
    checkpoint_steps=4,
)


def fitting(loaded: LoadedModel, shards: list[Path], run: Path, **changes: object) -> Fitting:
    digits = digit_tokens(loaded.tokenizer, loaded.config.vocab_size)
    return Fitting(loaded.config, CONFIG.model_copy(update=changes), 7, shards, digits, run)


def losses(run: Path, name: str) -> list[float]:
    lines = [json.loads(line) for line in (run / LOG_FILE).read_text().splitlines()]
    return [line[name] for line in lines if name in line]


def test_both_losses_fall(loaded: LoadedModel, shards: list[Path], tmp_path: Path):
    fitting(loaded, shards, tmp_path / "run", ranking=5.0, reference_tokens=64).fit(shards)
    for name in ("regression", "ranking"):
        values = losses(tmp_path / "run", name)
        assert len(values) == 60
        assert sum(values[-6:]) < 0.7 * sum(values[:6]), name


def test_a_fit_that_was_stopped_ends_with_the_same_bits(
    loaded: LoadedModel, shards: list[Path], tmp_path: Path
):
    whole = fitting(loaded, shards, tmp_path / "whole", epochs=3).fit([])
    for stop in (2, 5, None):
        # A new object each time: everything comes from the run folder.
        parts = fitting(loaded, shards, tmp_path / "parts", epochs=3).fit([], stop)
    expected, found = whole.state_dict(), parts.state_dict()
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert torch.equal(value, found[name]), name


def test_a_harvest_goes_on_where_it_was(
    loaded: LoadedModel, writer: StreamWriter, plan: HarvestPlan, tmp_path: Path
):
    first = harvest(loaded.model, writer, plan, 1, tmp_path)
    written = first[0].stat().st_mtime_ns
    both = harvest(loaded.model, writer, plan, 2, tmp_path)
    assert both[:1] == first
    assert first[0].stat().st_mtime_ns == written
    whole = harvest(loaded.model, writer, plan, 2, tmp_path / "whole")
    for a, b in zip(both, whole, strict=True):
        assert a.read_bytes() == b.read_bytes()


def test_a_folder_of_another_plan_is_refused(
    loaded: LoadedModel, writer: StreamWriter, plan: HarvestPlan, tmp_path: Path
):
    harvest(loaded.model, writer, plan, 1, tmp_path)
    other = replace(plan, seed=plan.seed + 1)
    with pytest.raises(RetrofitError, match="another plan"):
        harvest(loaded.model, writer, other, 1, tmp_path)


def test_a_shard_holds_the_text_and_not_the_questions(
    loaded: LoadedModel, writer: StreamWriter, plan: HarvestPlan, shards: list[Path]
):
    stream, shard = writer.write(plan.seed, 0), read_shard(shards[0])
    assert shard.tokens.tolist() == stream.tokens[: stream.told].tolist()
    assert shard.k.shape == shard.v.shape == (2, 2, stream.told, 16)
    assert bool((shard.asked.amax(dim=(0, 1)) > 0).all())
    # Nothing within the window of the last chosen query can be far from it.
    assert float(shard.general[:, :, -plan.window :].max()) == 0
