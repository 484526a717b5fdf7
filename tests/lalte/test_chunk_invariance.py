"""A stream's result does not depend on how it was cut, and is what the definition says."""

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lalte.init import random_model
from lalte.presets import tiny_lalte
from lalte.state import StateSlots
from tests.lalte.oracle import Oracle

LENGTH = 260
MIXES = {
    "lalte": ("gdn", "lte", "gdn", "lte"),
    "all": ("lte", "swa", "gdn", "local_gdn", "full", "lte"),
    "gdn": ("gdn", "gdn"),
    "gdn-swa": ("gdn", "swa"),
    "lansa": ("gdn", "nsa", "gdn", "nsa"),
    "gdn-attention": ("gdn", "full"),
    "transformer": ("full", "full"),
}
WITH_LTE = [mix for mix, kinds in MIXES.items() if "lte" in kinds]
VARIANTS = [
    (mix, grid, positions)
    for mix in WITH_LTE
    for grid in ("chunk", "token")
    for positions in ("bounded", "absolute")
] + [(mix, "chunk", "bounded") for mix in MIXES if mix not in WITH_LTE]
variants = pytest.mark.parametrize(("mix", "grid", "positions"), VARIANTS)


def make_config(mix, grid, positions):
    return tiny_lalte(
        MIXES[mix], budget=9, eviction_grid=grid, positions=positions, position_span=32
    )


def make_tokens(seed, length=LENGTH):
    return torch.randint(0, 512, (length,), generator=torch.Generator().manual_seed(seed))


def positions_kept(slots, tokens, slot=0):
    """(layer, head) -> positions retained, once their token ids are seen to be the stream's."""
    kept = slots.retained(slot)
    for row in kept:
        assert row.token_ids == tokens[row.positions].tolist()
    return {(row.layer, row.head): row.positions for row in kept}


@cache
def in_one_pass(mix, grid, positions, seed=0, dtype=torch.float64):
    config = make_config(mix, grid, positions)
    model = random_model(config, 7, dtype)
    slots = StateSlots.allocate(config, 1, dtype)
    tokens = make_tokens(seed)
    logits = model(tokens[None], slots.view(0))[0]
    return model, logits, positions_kept(slots, tokens)


@variants
def test_one_pass_is_the_definition(mix, grid, positions):
    model, logits, kept = in_one_pass(mix, grid, positions)
    oracle = Oracle(model.config, model.state_dict(), make_tokens(0))
    assert oracle.evictions > 200 or mix not in WITH_LTE
    assert kept == oracle.kept
    torch.testing.assert_close(logits, oracle.logits, atol=1e-9, rtol=0)


@variants
@given(data=st.data())
@settings(max_examples=12, deadline=None)
def test_any_cut_gives_the_same_logits_and_retained_tokens(mix, grid, positions, data):
    model, expected, kept = in_one_pass(mix, grid, positions)
    tokens = make_tokens(0)
    slots = StateSlots.allocate(model.config, 1, torch.float64)
    lengths = data.draw(
        st.lists(st.one_of(st.just(0), st.just(1), st.integers(2, 90)), max_size=24)
    )
    logits, at = [], 0
    for length in [*lengths, LENGTH]:
        piece = tokens[at : at + length]
        logits.append(model(piece[None], slots.view(0))[0])
        at += len(piece)
        assert slots.offsets == [at]
    torch.testing.assert_close(torch.cat(logits), expected, atol=1e-9, rtol=0)
    assert positions_kept(slots, make_tokens(0)) == kept


@variants
def test_token_by_token_gives_the_same(mix, grid, positions):
    model, expected, kept = in_one_pass(mix, grid, positions)
    slots = StateSlots.allocate(model.config, 1, torch.float64)
    logits = torch.cat([model.step(t[None], slots.view(0)) for t in make_tokens(0)])
    torch.testing.assert_close(logits, expected, atol=1e-9, rtol=0)
    assert positions_kept(slots, make_tokens(0)) == kept


@variants
def test_lanes_step_together_at_their_own_offsets(mix, grid, positions):
    model, expected, _ = in_one_pass(mix, grid, positions)
    tokens = make_tokens(0)
    starts = [0, 3, 8, 67, 201]
    slots = StateSlots.allocate(model.config, 7, torch.float64)
    for lane, start in enumerate(starts):
        model(tokens[None, :start], slots.view(lane + 1))
    for n in range(40):
        logits = model.step(tokens[[s + n for s in starts]], slots.view(1, 6))
        torch.testing.assert_close(logits, expected[[s + n for s in starts]], atol=1e-9, rtol=0)
    assert slots.offsets == [0, *(s + 40 for s in starts), 0]


@pytest.mark.parametrize("grid", ["chunk", "token"])
def test_absorb_then_extend_is_one_pass(grid):
    model, expected, _ = in_one_pass("all", grid, "bounded")
    tokens = make_tokens(0)
    slots = StateSlots.allocate(model.config, 1, torch.float64)
    model.absorb(tokens[None, :240], [slots.view(0)])
    last = model.extend(tokens[240:], slots.view(0))
    torch.testing.assert_close(last, expected[-1], atol=1e-9, rtol=0)


def closest_scores(oracle):
    """The smallest distance between any two scores of a head, or of one from the threshold."""
    gaps = []
    for scores in oracle.scores.values():
        for head in scores:
            ordered = torch.cat([head, torch.zeros(1, dtype=head.dtype)]).sort().values
            gaps.append(float(ordered.diff().min()))
    return min(gaps)


def test_fp32_keeps_the_same_tokens_wherever_scores_are_apart():
    length, compared = 90, 0
    for seed in range(8):
        config = make_config("all", "chunk", "bounded")
        model = random_model(config, 7, torch.float32)
        tokens = make_tokens(seed, length)
        oracle = Oracle(config, model.state_dict(), tokens)
        if closest_scores(oracle) < 1e-5:
            continue
        compared += 1
        whole, cut = (StateSlots.allocate(config, 1, torch.float32) for _ in range(2))
        logits = model(tokens[None], whole.view(0))[0]
        stepped = torch.cat([model.step(t[None], cut.view(0)) for t in tokens])
        assert positions_kept(whole, tokens) == positions_kept(cut, tokens) == oracle.kept
        torch.testing.assert_close(logits, oracle.logits.float(), atol=1e-4, rtol=0)
        torch.testing.assert_close(stepped, logits, atol=1e-4, rtol=0)
    assert compared >= 3


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda m, s: m.absorb(torch.zeros(1, 9, dtype=torch.int64), [s.view(0)]), "whole blocks"),
        (lambda m, s: m.absorb(torch.zeros(1, 0, dtype=torch.int64), [s.view(0)]), "whole blocks"),
        (lambda m, s: m.extend(torch.zeros(0, dtype=torch.int64), s.view(0)), "at least one"),
        (lambda m, s: m.step(torch.zeros(3, dtype=torch.int64), s.view(0)), "3 tokens for 1"),
        (lambda m, s: m(torch.full((1, 2), 512), s.view(0)), "token ids"),
        (lambda m, s: m(torch.full((1, 2), -1), s.view(0)), "token ids"),
        (lambda m, s: m(torch.zeros(1, 2), s.view(0)), "int64"),
        (lambda m, s: m(torch.zeros(2, 2, dtype=torch.int64), s.view(0)), "2 rows"),
    ],
)
def test_wrong_calls_are_refused_before_a_slot_is_touched(call, says):
    model = random_model(tiny_lalte(), 1)
    slots = StateSlots.allocate(model.config, 1)
    before = slots.checksum(0)
    with pytest.raises(ValueError, match=says):
        call(model, slots)
    assert slots.checksum(0) == before


def test_absorb_refuses_an_open_block():
    model = random_model(tiny_lalte(), 1)
    slots = StateSlots.allocate(model.config, 1)
    model.extend(torch.zeros(3, dtype=torch.int64), slots.view(0))
    with pytest.raises(ValueError, match="committed state, not offset 3"):
        model.absorb(torch.zeros(1, 8, dtype=torch.int64), [slots.view(0)])
