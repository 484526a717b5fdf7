from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from lalte.checkpoints.load import LoadedModel
from lalte.evaluation import variants
from lalte.evaluation.perplexity import (
    Foreseen,
    blocks,
    foresee,
    foresee_densely,
    foresee_freshly,
    perplexity,
)


def some_ids(n: int) -> list[int]:
    return torch.randint(0, 500, (n,), generator=torch.Generator().manual_seed(1)).tolist()


@pytest.mark.parametrize("n", [2, 64, 131])
def test_every_token_is_foreseen_from_all_before_it(exact: LoadedModel, n: int):
    ids = some_ids(n)
    logits = exact.model.logits(torch.tensor([ids]))[0, :-1]
    found = foresee(variants.as_it_is(exact.model), ids)
    expected = functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="none")
    torch.testing.assert_close(found.loss, expected.double(), atol=1e-3, rtol=1e-3)
    assert found.right.tolist() == (logits.argmax(-1) == torch.tensor(ids[1:])).tolist()


def test_full_attention_foresees_as_the_model_of_full_layers_does(exact: LoadedModel):
    ids = some_ids(1500)  # more than one piece
    model = variants.full_attention(exact.model)
    dense = foresee_densely(model, ids)
    found = foresee(variants.Memory(model, 0), ids)
    torch.testing.assert_close(dense.loss, found.loss, atol=1e-3, rtol=1e-3)


def test_a_fresh_memory_begins_shortly_before_each_block(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("lalte.evaluation.perplexity._FIRST_BORDERS", (0, 256, 512))
    monkeypatch.setattr("lalte.evaluation.perplexity._BLOCK", 512)
    monkeypatch.setattr("lalte.evaluation.perplexity.RUN_UP", 128)
    ids, memory = some_ids(1300), variants.as_it_is(loaded.model)
    found = foresee_freshly(memory, ids)
    assert found.loss.shape == found.right.shape == (1299,)
    begun = foresee(memory, ids[896:])  # the last block is [1024, 1300)
    assert found.loss[1023:].tolist() == begun.loss[127:].tolist()
    first = foresee(memory, ids[:256])
    assert found.loss[:255].tolist() == first.loss.tolist()


def test_blocks_are_of_positions_in_the_stream():
    n = 20_000
    loss = torch.empty(n - 1, dtype=torch.float64)
    for position in range(1, n):
        loss[position - 1] = 1 if position < 2048 else 2 if position < 8192 else 3
    loss[16384 - 1 :] = 4
    stream = Foreseen(loss, torch.zeros(n - 1, dtype=torch.bool))
    found = [(b.first, b.last, round(math.log(b.perplexity), 9)) for b in blocks([stream, stream])]
    assert found == [
        (0, 2048, 1),
        (2048, 8192, 2),
        (8192, 16384, 3),
        (16384, 20000, 4),
    ]
    short = Foreseen(loss[:99], torch.zeros(99, dtype=torch.bool))
    assert [(b.first, b.last) for b in blocks([short])] == [(0, 100)]
    assert math.log(perplexity([short])) == pytest.approx(1)
