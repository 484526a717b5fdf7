from __future__ import annotations

import torch

from lalte.checkpoints.load import LoadedModel
from lalte.config import ModelConfig
from lalte.init import random_model
from lalte.presets import tiny_lalte
from lalte.retrofit.data import StreamWriter
from lalte.retrofit.teacher import attention_maxima, teach
from lalte.state import StateSlots


def test_attention_maxima_equal_the_definition():
    seed = 20
    generator = torch.Generator().manual_seed(seed)
    print(f"seed {seed}")  # noqa: T201
    kv_heads, group, n, d, told, distance = 2, 3, 150, 16, 110, 7
    q = torch.randn(kv_heads * group, n, d, generator=generator)
    k = torch.randn(kv_heads, n, d, generator=generator)
    queries = torch.randperm(n, generator=generator)[:90].sort().values
    expected = torch.zeros(kv_heads, told)
    for i in queries.tolist():
        for head in range(kv_heads * group):
            keys = k[head // group, : i + 1]
            shares = (keys @ q[head, i] * d**-0.5).softmax(dim=0)
            for j in range(min(told, i - distance + 1)):
                expected[head // group, j] = max(expected[head // group, j], shares[j])
    found = attention_maxima(q, k, queries, distance, told)
    torch.testing.assert_close(found, expected)
    assert bool((expected > 0).any())


def test_no_queries_draw_no_attention():
    none = torch.zeros(0, dtype=torch.int64)
    found = attention_maxima(torch.ones(2, 4, 8), torch.ones(1, 4, 8), none, 1, 4)
    assert torch.equal(found, torch.zeros(1, 4))


def wide(window: int) -> ModelConfig:
    return tiny_lalte(("lte", "lte"), window=window, position_span=window + 12)


def test_the_teacher_reads_what_a_router_reads(loaded: LoadedModel, writer: StreamWriter):
    """k and v are those of a session whose window holds the whole stream."""
    stream = writer.write(1, 1)
    n = stream.tokens.shape[0] // 8 * 8
    config = wide(window=n)
    model = random_model(config, seed=1)
    slots = StateSlots.allocate(config, 1)
    model.absorb(stream.tokens[None, :n], [slots.view(0)])
    views = list(teach(model, stream.tokens[:n], n - 16, torch.arange(20, n - 16), 20))
    for view, state in zip(views, slots.layers, strict=True):
        first = state.key.shape[2] - 8 - n  # the window's rows
        torch.testing.assert_close(
            view.k, state.key[0, :, first : first + n - 16], rtol=1e-4, atol=1e-4
        )
        torch.testing.assert_close(
            view.v, state.value[0, :, first : first + n - 16], rtol=1e-4, atol=1e-4
        )
        assert view.asked.shape == view.general.shape == (2, n - 16)
