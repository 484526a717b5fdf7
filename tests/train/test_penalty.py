"""The controller raises the price of keeping until each head keeps what its budget holds."""

import pytest
import torch

from lalte.presets import tiny_lalte
from lalte.train.config import PenaltyConfig
from lalte.train.errors import TrainError
from lalte.train.penalty import PenaltyController

LENGTH = 106
BUDGETS = torch.tensor([[12.0, 9.0], [12.0, 9.0]])
CONFIG = PenaltyConfig(update_steps=4, floor=1e-3)


def controller() -> PenaltyController:
    return PenaltyController(tiny_lalte(), CONFIG, LENGTH, torch.device("cpu"))


def share(kept: float) -> torch.Tensor:
    """The share of scored tokens, all but the last six, that is `kept` tokens."""
    return torch.full((2, 2), kept / (LENGTH - 6))


def test_nothing_is_charged_before_the_first_update():
    penalty = controller()
    for step in range(1, 4):
        penalty.observe(share(100), step)
    assert not penalty.strength.any()
    penalty.observe(share(100), 4)
    assert torch.equal(penalty.strength, torch.full((2, 2), 1e-3))


def test_the_price_rises_by_half_and_falls_by_half_and_stops_at_its_bounds():
    penalty = controller()
    for step in range(1, 9):
        penalty.observe(share(100), step)
    torch.testing.assert_close(penalty.strength, torch.full((2, 2), 1.5e-3))
    penalty.kept.fill_(0)
    penalty.observe(share(0), 12)
    # Under the floor it is free.
    assert not penalty.strength.any()
    penalty.strength.fill_(0.9)
    penalty.kept.fill_(100)
    penalty.observe(share(100), 16)
    assert torch.equal(penalty.strength, torch.ones(2, 2))


def test_a_head_that_keeps_within_the_band_is_left_alone():
    penalty = controller()
    penalty.strength.fill_(0.01)
    penalty.kept.copy_(0.97 * BUDGETS)
    penalty.observe(0.97 * BUDGETS / (LENGTH - 6), 8)
    torch.testing.assert_close(penalty.strength, torch.full((2, 2), 0.01))


def test_a_free_head_that_keeps_too_much_pays_the_floor_again():
    penalty = controller()
    penalty.kept.fill_(100)
    penalty.observe(share(100), 8)
    assert torch.equal(penalty.strength, torch.full((2, 2), 1e-3))


def test_the_average_remembers_two_seventeenths_with_the_papers_constants():
    penalty = PenaltyController(tiny_lalte(), PenaltyConfig(), LENGTH, torch.device("cpu"))
    penalty.observe(share(0), 1)
    torch.testing.assert_close(penalty.kept, torch.full((2, 2), LENGTH * 15 / 17))


def test_a_sequence_within_one_scores_reach_is_refused():
    with pytest.raises(TrainError, match="at least 7"):
        PenaltyController(tiny_lalte(), CONFIG, 6, torch.device("cpu"))


def test_heads_that_answer_to_the_price_come_to_keep_what_their_budgets_hold():
    """Heads that would keep more the cheaper it is, and follow the price with some delay."""
    # The paper's factors of 1.5 and 2 overshoot a band of 5 %, and circle it.
    config = PenaltyConfig(update_steps=4, raise_factor=1.02, lower_factor=1.02, floor=1e-3)
    penalty = PenaltyController(tiny_lalte(), config, LENGTH, torch.device("cpu"))
    eagerness = torch.tensor([[400.0, 30.0], [3000.0, 90.0]])
    kept = torch.full((2, 2), 100.0)
    for step in range(1, 4001):
        kept += 0.03 * (100 / (1 + eagerness * penalty.strength) - kept)
        penalty.observe(kept / (LENGTH - 6), step)
    assert ((penalty.kept > 0.94 * BUDGETS) & (penalty.kept < 1.01 * BUDGETS)).all(), penalty.kept
