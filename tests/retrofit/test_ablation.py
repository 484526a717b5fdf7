from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lalte.checkpoints.load import LoadedModel
from lalte.config import LTEConfig
from lalte.retrofit.ablation import ablate, allocate, with_budgets
from lalte.retrofit.data import NO_FACT, StreamWriter


def test_what_a_window_sees_anyway_cannot_be_forgotten(loaded: LoadedModel, writer: StreamWriter):
    streams = [writer.write(3, index) for index in range(2)]
    longest = max(len(stream.tokens) for stream in streams)
    found = ablate(loaded.model, streams, [0, 1], window=longest, sinks=0)
    assert found.costs == {0: 0.0, 1: 0.0}
    expected = count = 0.0
    for stream in streams:
        logs = teacher_logits(loaded, stream.tokens).log_softmax(dim=-1)
        for place in range(stream.told, len(stream.tokens)):
            if stream.value[place]:
                expected += float(logs[place - 1, stream.tokens[place]])
                count += 1
    assert found.remembering == pytest.approx(expected / count, rel=1e-3)


def teacher_logits(loaded: LoadedModel, tokens: torch.Tensor) -> torch.Tensor:
    """Of the same weights with a window as long as the stream."""
    n = len(tokens)
    layers = tuple(replace(layer, window=n) for layer in loaded.config.layers)
    config = replace(loaded.config, layers=layers, position_span=n + 12)
    model = type(loaded.model)(config, loaded.model.dtype)
    model.load_state_dict(loaded.model.state_dict())
    return model.logits(tokens[None])[0].float()


def test_a_layer_that_forgets_sees_no_facts(loaded: LoadedModel, writer: StreamWriter):
    """With facts in no layer to lose, nothing changes; with one, only its own part does."""
    stream = writer.write(3, 1)
    both = ablate(loaded.model, [stream], [0, 1], window=8, sinks=2)
    upper = ablate(loaded.model, [stream], [1], window=8, sinks=2)
    none = ablate(
        loaded.model,
        [replace(stream, fact=torch.full_like(stream.fact, NO_FACT))],
        [0, 1],
        window=8,
        sinks=2,
    )
    assert both.without[0] == pytest.approx(upper.remembering)
    assert upper.without[1] == pytest.approx(none.remembering)
    assert both.costs[0] != 0 != both.costs[1]
    assert set(none.costs.values()) == {0.0}


def test_slots_go_where_forgetting_costs():
    costs = {0: -0.1, 3: 2.6, 5: 0.5, 7: 0.05, 9: 0.1, 11: 1.0}
    budgets = allocate(costs, mean=256, least=16, most=768)
    assert budgets[0] == budgets[7] == budgets[9] == 16
    assert budgets[3] > budgets[11] > budgets[5] > 16
    assert 256 * 6 - 16 * 6 <= sum(budgets.values()) <= 256 * 6
    # The square root of what exceeds the noise: 2.5, 0.9 and 0.4.
    assert (budgets[3] - 16) / (budgets[11] - 16) == pytest.approx((2.5 / 0.9) ** 0.5, rel=0.05)


def test_no_layer_gets_more_than_it_can_hold():
    budgets = allocate({0: 9.0, 1: 0.01, 2: 0.01}, mean=100, least=10, most=160)
    assert budgets[0] == 160
    assert budgets[1] == budgets[2] == 64
    assert allocate({0: -1.0, 1: -1.0}, mean=64, least=16, most=64) == {0: 64, 1: 64}


def test_budgets_change_nothing_else(loaded: LoadedModel):
    config = with_budgets(loaded.config, {0: 4, 1: 7})
    found = [layer.budgets for layer in config.layers if isinstance(layer, LTEConfig)]
    assert found == [(4, 4), (7, 7)]
    back = with_budgets(config, {0: 12, 1: 12})
    same = [replace(layer, budgets=(12, 12)) for layer in loaded.config.layers]
    assert back == replace(loaded.config, layers=tuple(same))
