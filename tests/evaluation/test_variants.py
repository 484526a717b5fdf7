from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lalte.checkpoints.load import LoadedModel
from lalte.config import ConfigError, LTEConfig, SWAConfig
from lalte.evaluation import variants
from lalte.evaluation.baselines import RandomRetention
from lalte.evaluation.errors import EvaluationError
from lalte.init import random_model
from lalte.model import LaLTE
from lalte.presets import tiny_lalte
from lalte.state import StateSlots, copy_slot, nbytes
from lalte_kernels import rope


def some_tokens(n: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(0, 500, (n,), generator=torch.Generator().manual_seed(seed))


def absorbed(memory: variants.Memory, tokens: torch.Tensor, blocks: int = 3) -> StateSlots:
    slots = memory.allocate(2)
    for piece in tokens.split(blocks * memory.model.config.chunk):
        memory.model.absorb(piece[None], [slots.view(0)])
    return slots


def positions(slots: StateSlots) -> list[list[int]]:
    return [kept.positions for kept in slots.retained(0)]


def test_the_window_baseline_has_the_bytes_and_no_memory(loaded: LoadedModel):
    own, memory = variants.as_it_is(loaded.model), variants.sinks_and_window(loaded.model)
    assert 0.9 * own.state_bytes < memory.state_bytes <= own.state_bytes
    layer = memory.model.config.layers[1]
    assert isinstance(layer, LTEConfig)
    assert layer.window == 20 + 12 - 4
    assert positions(absorbed(memory, some_tokens(80))) == [[0, 1, 2, 3]] * 4


def test_random_retention_keeps_the_highest_ranks(loaded: LoadedModel):
    memory = variants.random_retention(loaded.model, seed=3)
    assert memory.state_bytes == variants.as_it_is(loaded.model).state_bytes
    slots = absorbed(memory, some_tokens(320))
    decided = 320 - 20
    for kept in slots.retained(0):
        mixer = memory.model.model.layers[kept.layer].attn
        assert isinstance(mixer, RandomRetention)
        rows = torch.zeros(2, decided + 2 * mixer.reach, 16)
        ranks = mixer.score(rows, rows, -mixer.reach)[kept.head]
        ranks[:4] = 2  # sinks
        budget = (12, 9)[kept.head]
        assert kept.positions == sorted(ranks.argsort(descending=True)[:budget].tolist())


def test_random_ranks_differ_by_head_layer_and_seed_and_are_uniform(loaded: LoadedModel):
    seen = set()
    for seed in (1, 2):
        model = variants.random_retention(loaded.model, seed).model
        for layer in (1, 2):
            mixer = model.model.layers[layer].attn
            assert isinstance(mixer, RandomRetention)
            rows = torch.zeros(2, 4000 + 2 * mixer.reach, 16)
            ranks = mixer.score(rows, rows, 0)
            assert bool((ranks > 0).all())
            deciles = torch.histc(ranks, bins=10, min=0, max=1)
            assert bool(((deciles - 800).abs() < 150).all())
            seen |= {tuple(head.tolist()) for head in ranks}
    assert len(seen) == 8


def attended_reference(model: LaLTE, tokens: torch.Tensor) -> list[list[int]]:
    """What layer 0 retains by H2O's rule, query by query. Positions must be absolute."""
    config, layer, block = model.config, model.config.layers[0], model.model.layers[0]
    assert isinstance(layer, LTEConfig)
    n, d = len(tokens), config.head_dim
    q, k, _ = (
        y.view(n, -1, d).transpose(0, 1)
        for y in block.attn.project(block.attn_norm(model.model.embeddings(tokens)))
    )
    q, k = (rope(x, torch.arange(n), config.rope_theta) for x in (q, k))
    retained: list[list[int]] = [[] for _ in range(config.num_kv_heads)]
    for head, budget in enumerate(layer.budgets):
        mass = torch.zeros(n, dtype=torch.float64)
        for start in range(0, n, config.chunk):
            for query in range(start, start + config.chunk):
                window = range(max(start - layer.window, 0), query + 1)
                keys = torch.tensor([*retained[head], *window])
                for member in range(2 * head, 2 * head + 2):
                    scores = k[head, keys] @ q[member, query] * d**-0.5
                    mass[keys] += scores.double().softmax(0)
            leaving = range(start - layer.window, start - layer.window + config.chunk)
            candidates = retained[head] + [p for p in leaving if p >= 0]
            ranked = sorted(candidates, key=lambda p: (p >= layer.sinks, -mass[p], p))
            retained[head] = sorted(ranked[:budget])
    return retained


@pytest.mark.parametrize("cut", [1, 5])
def test_attended_retention_is_h2os_rule(cut: int):
    config = tiny_lalte(("lte",), positions="absolute")
    memory = variants.attended_retention(random_model(config, seed=4, dtype=torch.float64))
    tokens = some_tokens(160)
    slots = absorbed(memory, tokens, blocks=cut)
    assert positions(slots) == attended_reference(memory.model, tokens)


def test_a_copy_of_attended_retention_goes_on_by_itself():
    config = tiny_lalte(("lte", "lte"))
    memory = variants.attended_retention(random_model(config, seed=4))
    tokens = some_tokens(200)
    slots = absorbed(memory, tokens[:120])
    copy_slot(slots, 0, slots, 1)
    memory.model.extend(some_tokens(40, seed=2), slots.view(1))
    memory.model.absorb(tokens[120:][None], [slots.view(0)])
    assert positions(slots) == positions(absorbed(memory, tokens))


def test_local_windows_take_the_place_of_gdn_on_the_same_projections(loaded: LoadedModel):
    memory = variants.local_windows(loaded.model)
    assert memory.model.config.layers[0] == SWAConfig(window=64)
    ours, theirs = memory.model.state_dict(), loaded.model.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    with pytest.raises(EvaluationError, match="no GDN layers"):
        variants.local_windows(random_model(tiny_lalte(("lte",))))


def test_budgets_are_cut_to_a_number_of_bytes(loaded: LoadedModel):
    own = nbytes(loaded.config, loaded.model.dtype)
    assert variants.within_bytes(loaded.model, own) is loaded.model
    smaller = variants.within_bytes(loaded.model, own - 500)
    assert own - 1500 < nbytes(smaller.config, smaller.dtype) <= own - 500
    with pytest.raises(EvaluationError, match="allow more"):
        variants.within_bytes(loaded.model, 1000)


def test_an_unrolled_variant_computes_what_the_model_does(loaded: LoadedModel):
    """Within window and budget no rule of retention matters."""
    tokens = some_tokens(20)[None]
    expected = loaded.model.logits(tokens)
    for memory in (
        variants.sinks_and_window(loaded.model),
        variants.random_retention(loaded.model, 1),
        variants.attended_retention(loaded.model),
    ):
        view = memory.allocate(1).view(0)
        found = memory.model.forward(tokens, view)
        torch.testing.assert_close(found, expected, atol=0.05, rtol=0.05)


def test_retained_tokens_can_be_said_to_stand_elsewhere(loaded: LoadedModel):
    model = loaded.model
    tokens = torch.arange(600)[None] % 100
    least = model.config.position_span

    def last_row(other: LaLTE) -> torch.Tensor:
        slots = StateSlots.allocate(other.config, 1, other.dtype)
        other.absorb(tokens[:, :576], [slots.view(0)])
        return other.extend(tokens[0, 576:], slots.view(0))

    rows = {
        positions: last_row(variants.at_positions(model, positions))
        for positions in (str(least), str(4 * least), "absolute", str(10 * 600))
    }
    own, wider, absolute, widest = rows.values()
    assert torch.equal(own, last_row(model))
    assert not torch.equal(wider, own)
    assert not torch.equal(wider, absolute)
    # A span that no token has left yet.
    assert torch.equal(widest, absolute)
    with pytest.raises(EvaluationError, match="neither absolute nor"):
        variants.at_positions(model, "near")
    with pytest.raises(ConfigError, match="position_span"):
        variants.at_positions(model, "1")


def test_full_attention_holds_every_key_and_value(loaded: LoadedModel):
    config = replace(loaded.config)
    # 3 layers, keys and values, 2 heads of 16, 2 bytes each
    assert variants.key_value_bytes(config, torch.bfloat16, 100) == 3 * 2 * 2 * 16 * 2 * 100
