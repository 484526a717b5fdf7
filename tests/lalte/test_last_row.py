"""A reply can start right behind a stream: the state says what its last token predicts."""

import pytest
import torch

from lalte.init import random_model
from lalte.presets import tiny_lalte
from lalte.state import StateSlots, copy_slot

TOKENS = torch.arange(5 * 8) % 500


def test_a_loaded_state_predicts_what_the_stream_predicted() -> None:
    model = random_model(tiny_lalte(), seed=3)
    slots = StateSlots.allocate(model.config, 3)
    model.absorb(TOKENS[None], [slots.view(0)])
    slots.load_arrays(1, slots.to_arrays(0), len(TOKENS))
    copy_slot(slots, 1, slots, 2)
    expected = model.logits(TOKENS[None])[0, -1]
    for slot in range(3):
        torch.testing.assert_close(model.last_logits(slots.view(slot))[0], expected)


def test_the_last_row_follows_every_way_of_reading() -> None:
    model = random_model(tiny_lalte(), seed=3)
    slots = StateSlots.allocate(model.config, 2)
    for token in TOKENS[:11]:
        stepped = model.step(token[None], slots.view(0))
    extended = model.extend(TOKENS[:11], slots.view(1))
    torch.testing.assert_close(model.last_logits(slots.view(0)), stepped)
    torch.testing.assert_close(model.last_logits(slots.view(1))[0], extended)


def test_nothing_is_predicted_before_the_first_token() -> None:
    model = random_model(tiny_lalte(), seed=3)
    slots = StateSlots.allocate(model.config, 1)
    with pytest.raises(ValueError, match="before the first token"):
        model.last_logits(slots.view(0))
