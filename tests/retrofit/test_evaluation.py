from __future__ import annotations

import pytest
import torch

from lalte.checkpoints.load import LoadedModel
from lalte.init import random_model
from lalte.presets import tiny_lalte
from lalte.retrofit.evaluation import Cell, absorb_all, answer, sinks_alone, value_positions
from lalte.retrofit.needles import Sample
from lalte.state import StateSlots


def test_a_value_is_found_where_its_tokens_stand(loaded: LoadedModel):
    ids = loaded.tokenizer.encode_plain("there is the number: 4711.")
    positions = value_positions(loaded.tokenizer, ids, "4711")
    assert loaded.tokenizer.decode([ids[p] for p in positions]) == "4711"


@pytest.mark.parametrize("words_behind", [200, 10, 2])
def test_kept_is_what_the_state_holds(loaded: LoadedModel, words_behind: int):
    config = tiny_lalte(("lte", "lte"))
    model = random_model(config, seed=3)
    context = f"{'you know the day ' * 20}4711{' they were there' * words_behind}"
    outcome = answer(model, loaded.tokenizer, Sample("single_1", context, "what", "4711", 0))
    ids = loaded.tokenizer.encode_plain(context)
    slots = StateSlots.allocate(config, 1)
    absorbed = absorb_all(model, slots, ids)
    assert len(ids) - 8 < absorbed <= len(ids)
    positions = set(value_positions(loaded.tokenizer, ids, "4711"))
    for kept in slots.retained(0):
        held = set(kept.positions) | set(range(absorbed - 20, len(ids)))
        share = len(positions & held) / len(positions)
        assert outcome.kept[kept.layer][kept.head] == share


def test_a_reply_is_right_when_it_contains_the_value_in_any_case(loaded: LoadedModel, monkeypatch):
    question, value = "what is there", "AB7"
    ids = loaded.tokenizer.encode_plain("it was ab7 then")
    script = iter(ids)

    def say(*_: object) -> torch.Tensor:
        logits = torch.zeros(loaded.config.vocab_size)
        logits[next(script)] = 1
        return logits

    monkeypatch.setattr(loaded.model, "extend", say)
    monkeypatch.setattr(loaded.model, "step", lambda *_: say()[None])
    sample = Sample("single_1", f"you {value} never", question, value, 0)
    outcome = answer(loaded.model, loaded.tokenizer, sample)
    assert outcome.right
    assert outcome.reply == "it was ab7"


def test_with_sinks_alone_nothing_else_is_retained(loaded: LoadedModel):
    bare = sinks_alone(loaded.model)
    slots = StateSlots.allocate(bare.config, 1, bare.dtype)
    bare.absorb(torch.zeros(1, 80, dtype=torch.int64), [slots.view(0)])
    for kept in slots.retained(0):
        assert kept.positions == [0, 1, 2, 3]


def test_the_interval_is_wilsons():
    cell = Cell("single_1", 1024, samples=10, seed=1, right=8, kept=0.5, heads_keeping=3)
    low, high = cell.interval
    assert (round(low, 3), round(high, 3)) == (0.49, 0.943)
    assert cell.facts()["ci95"] == [0.49, 0.943]
