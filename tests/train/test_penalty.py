"""The controller raises the price of keeping until each head keeps what its budget holds."""

import math

import torch

from lalte.init import random_model
from lalte.presets import tiny_lalte
from lalte.train.config import PenaltyConfig
from lalte.train.parallel import router_logits
from lalte.train.penalty import PenaltyController

LENGTH = 106
BUDGETS = torch.tensor([[12.0, 9.0], [12.0, 9.0]])
CONFIG = PenaltyConfig(update_steps=4, floor=1e-3)


def controller() -> PenaltyController:
    return PenaltyController(tiny_lalte(), CONFIG, LENGTH, torch.device("cpu"))


def share(kept: float) -> torch.Tensor:
    """The share that, all tokens but the undecided six counted, is `kept` tokens."""
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


def test_routers_that_are_paid_for_useful_tokens_come_to_keep_what_the_budget_holds():
    """Tokens are worth between little and much, and routers learn which; two heads, one layer.

    The constants are gentler than the paper's, whose runs are forty times as long.
    """
    config = PenaltyConfig(
        update_steps=2, raise_factor=1.02, lower_factor=1.04, floor=0.05, ceiling=2
    )
    torch.manual_seed(0)
    model = random_model(tiny_lalte(("lte",)), seed=0)
    router = model.model.layers[0].attn.router
    penalty = PenaltyController(model.config, config, LENGTH, torch.device("cpu"))
    embedding, worth = torch.randn(512, 2, 2, 16), 0.1 * torch.randn(512, 2).exp()
    optimiser = torch.optim.Adam(router.parameters())
    kept = []
    steps = 2400
    for step in range(1, steps + 1):
        for group in optimiser.param_groups:
            group["lr"] = 2e-3 * (0.05 + 0.95 * (1 + math.cos(math.pi * step / steps)) / 2)
        tokens = torch.randint(512, (32, LENGTH))
        k, v = embedding[tokens].permute(2, 0, 3, 1, 4)
        r = router_logits(router.weights(), k, v, dropout=0.0).sigmoid()
        gain = (worth[tokens].transpose(1, 2) * r).mean()
        ((penalty.strength[0, None, :, None] * r).mean() - gain).backward()
        optimiser.step()
        optimiser.zero_grad()
        penalty.observe((r > 0.5).float().mean(dim=(0, 2))[None], step)
        kept.append(penalty.kept[0].clone())
    # Single steps ripple about the band; their mean is in it, give or take 5 %.
    end = torch.stack(kept[-600:]).mean(dim=0)
    assert ((end > 0.9 * BUDGETS[0]) & (end < 1.05 * BUDGETS[0])).all(), end
