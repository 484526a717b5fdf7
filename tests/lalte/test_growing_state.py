"""States that grow: each slot holds what its own stream needs, and gives it back."""

import pytest
import torch

from lalte.init import random_model
from lalte.presets import tiny_lalte
from lalte.state import StateSlots, copy_slot, growing_nbytes

KINDS = ("gdn", "full", "nsa")
ROW = 2 * 2 * 16 * 4  # bytes of a token's key and value in one layer: 2 KV heads of 16, fp32


@pytest.fixture(scope="module")
def model():
    return random_model(tiny_lalte(KINDS), 3)


def read(model, slots, slot, length, seed=0):
    tokens = torch.randint(1, 512, (1, length), generator=torch.Generator().manual_seed(seed))
    model.absorb(tokens, [slots.view(slot)])


def test_a_long_stream_costs_its_neighbours_nothing(model):
    slots = StateSlots.allocate(model.config, 4)
    empty = slots.resident_bytes
    read(model, slots, 2, 800)
    grown = slots.resident_bytes - empty
    # Two growing layers, the means of blocks of 4, and a quarter to spare.
    assert 2 * 800 * ROW < grown < 1.25 * (2 + 1 / 4) * 800 * ROW


def test_a_reset_slot_gives_its_memory_back(model):
    slots = StateSlots.allocate(model.config, 2)
    empty = slots.resident_bytes
    read(model, slots, 0, 400)
    slots.reset(0)
    assert slots.resident_bytes == empty


def test_growth_copies_a_row_a_few_times_at_most(model, monkeypatch):
    copied = []
    from lalte.state import growing

    real = growing._copy
    monkeypatch.setattr(
        growing, "_copy", lambda old, new: (copied.append(old.key.shape[2]), real(old, new))
    )
    slots = StateSlots.allocate(model.config, 1)
    for _ in range(200):
        read(model, slots, 0, model.config.chunk)
    assert sum(copied) / 2 < 6 * 200 * model.config.chunk


def test_a_copy_is_as_large_as_the_stream_and_goes_on_alike(model):
    slots, lanes = (StateSlots.allocate(model.config, 2) for _ in range(2))
    read(model, slots, 0, 40)
    read(model, slots, 1, 800)
    copy_slot(slots, 1, lanes, 0)
    large = lanes.resident_bytes
    copy_slot(slots, 0, lanes, 0)  # what a long stream left does not stay, nor does it show
    assert lanes.resident_bytes < large / 4
    question = torch.arange(1, 30)
    expected = model.extend(question, slots.view(0))
    assert torch.equal(model.extend(question, lanes.view(0)), expected)


def test_lanes_of_very_different_lengths_step_together(model):
    slots = StateSlots.allocate(model.config, 3)
    for slot, length in enumerate((8, 400, 0)):
        if length:
            read(model, slots, slot, length, seed=slot)
    alone = StateSlots.allocate(model.config, 3)
    for slot in range(3):
        copy_slot(slots, slot, alone, slot)
    for token in range(20):
        tokens = torch.tensor([token, token + 1, token + 2])
        together = model.step(tokens, slots.view(0, 3))
        for slot in range(3):
            one = model.step(tokens[slot : slot + 1], alone.view(slot))
            torch.testing.assert_close(together[slot : slot + 1], one, atol=1e-4, rtol=1e-4)


def test_several_lanes_of_a_growing_layer_are_not_one_tensor(model):
    slots = StateSlots.allocate(model.config, 2)
    with pytest.raises(ValueError, match="layer 1 grows"):
        slots.view(0, 2).layer(1)


def test_stored_bytes_only_get_longer_behind_the_last_segment(model, monkeypatch):
    monkeypatch.setattr("lalte.state.arrays.SEGMENT", 40)
    slots = StateSlots.allocate(model.config, 1)
    read(model, slots, 0, 96)
    before = slots.to_arrays(0)
    read(model, slots, 0, 64, seed=1)
    after = slots.to_arrays(0)

    def growing(arrays, offset):
        size = growing_nbytes(model.config, torch.float32, offset)
        return b"".join(bytes(array.data) for array in arrays.values())[-size:]

    assert list(after)[: len(before) - 4] == list(before)[:-4]  # 2 layers' key and value
    sealed = growing_nbytes(model.config, torch.float32, 80)
    assert growing(after, 160)[:sealed] == growing(before, 96)[:sealed]
    assert len(growing(after, 160)) == 160 * 2 * ROW


def test_a_state_of_many_segments_loads_and_goes_on(model, monkeypatch):
    monkeypatch.setattr("lalte.state.arrays.SEGMENT", 40)
    slots = StateSlots.allocate(model.config, 2)
    read(model, slots, 0, 168)
    slots.load_arrays(1, slots.to_arrays(0), 168)
    assert slots.checksum(0) == slots.checksum(1)
    question = torch.arange(1, 30)
    expected = model.extend(question, slots.view(0))
    assert torch.equal(model.extend(question, slots.view(1)), expected)
