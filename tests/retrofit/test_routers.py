from __future__ import annotations

import pytest
import torch

from lalte.config import LTEConfig
from lalte.init import random_model
from lalte.model import LaLTE
from lalte.presets import tiny_lalte
from lalte.retrofit.calibration import calibrate
from lalte.retrofit.config import CalibrationConfig
from lalte.retrofit.data import NO_FACT
from lalte.retrofit.harvest import Shard
from lalte.retrofit.objective import (
    FLOOR,
    Targets,
    ThresholdBank,
    make_targets,
    ranking_loss,
    regression_loss,
)
from lalte.retrofit.routers import HeadRouters
from lalte.retrofit.survival import survival
from lalte_kernels import retention_score

CONFIG = tiny_lalte(("gdn", "lte", "lte"))


def random_routers(seed: int = 20, *, future: bool = True) -> HeadRouters:
    generator = torch.Generator().manual_seed(seed)
    routers = HeadRouters(CONFIG, generator, future=future)
    for parameter in routers.parameters():
        parameter.data += torch.randn(parameter.shape, generator=generator) * 0.1
    routers.mean.copy_(torch.randn(routers.mean.shape, generator=generator))
    routers.std.copy_(torch.rand(routers.std.shape, generator=generator) + 0.5)
    return routers.requires_grad_(False)


def shard_of(k: torch.Tensor, v: torch.Tensor, **other: torch.Tensor) -> Shard:
    n = k.shape[2]
    none = {
        "asked": torch.zeros(k.shape[:3]),
        "general": torch.zeros(k.shape[:3]),
        "tokens": torch.zeros(n, dtype=torch.int32),
        "fact": torch.full((n,), NO_FACT, dtype=torch.int16),
        "value": torch.zeros(n, dtype=torch.bool),
    }
    return Shard(k=k, v=v, **(none | other))


@pytest.mark.parametrize("future", [True, False])
def test_exported_routers_score_as_the_model_does(future: bool):
    routers = random_routers(future=future)
    model: LaLTE = random_model(CONFIG)
    exported = routers.export(torch.float32)
    lte = [i for i, layer in enumerate(CONFIG.layers) if isinstance(layer, LTEConfig)]
    expected_names = {name for name in model.state_dict() if ".router." in name}
    assert set(exported) == expected_names
    model.load_state_dict(exported, strict=False)
    k, v = torch.randn(2, 2, 2, 40, 16)
    ours = routers(k, v)
    for number, layer in enumerate(lte):
        weights = model.model.layers[layer].attn.router.weights()
        served = retention_score(k[number], v[number], weights, 100)
        # Without what stands beside the first and last tokens, the ends differ.
        torch.testing.assert_close(
            ours.view(2, 2, -1)[number, :, 6:-6], served, rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("future", [True, False])
def test_a_router_reads_the_future_unless_told_otherwise(future: bool):
    routers = random_routers(future=future)
    k, v = torch.randn(2, 2, 2, 40, 16)
    before = routers(k, v)
    k[:, :, 20:] += 1
    after = routers(k, v)
    assert torch.equal(before[:, :14], after[:, :14])
    assert torch.equal(before[:, 14:20], after[:, 14:20]) is not future
    assert not torch.equal(before[:, 20:], after[:, 20:])


def test_products_in_bf16_score_nearly_the_same():
    routers = random_routers()
    k, v = torch.randn(2, 2, 2, 200, 16)
    exact = routers(k, v)
    found = routers(k, v, torch.bfloat16)
    assert found.dtype == torch.float32
    assert 0 < float((found - exact).std() / exact.std()) < 0.05


def test_rounding_does_not_move_scores_of_inputs_far_from_zero():
    routers = random_routers()
    routers.mean *= 30
    k, v = torch.randn(2, 2, 2, 200, 16)
    mean = routers.mean.view(2, 2, 1, -1)
    k, v = k + mean[..., :16], v + mean[..., 16:]
    exported = {n: t.float() for n, t in routers.export(torch.bfloat16).items()}
    model = random_model(CONFIG)
    model.load_state_dict(exported, strict=False)
    served = retention_score(k[0], v[0], model.model.layers[1].attn.router.weights(), 100)
    error = (routers(k, v)[:2, 6:-6] - served).detach()
    assert float(error.std() / served.detach().std()) < 0.15


def test_targets_keep_values_whole_and_spare_what_may_be_asked():
    n, sinks = 12, 2
    fact = torch.full((n,), NO_FACT, dtype=torch.int16)
    fact[4:8] = 0
    value = torch.zeros(n, dtype=torch.bool)
    value[5:8] = True
    asked, general = torch.zeros(1, 1, n), torch.zeros(1, 1, n)
    asked[0, 0, 6], asked[0, 0, 10], general[0, 0, 9] = 0.8, 0.9, 0.3
    tokens = torch.zeros(n, dtype=torch.int32)
    tokens[11] = 1
    shard = shard_of(
        torch.zeros(1, 1, n, 2),
        torch.zeros(1, 1, n, 2),
        asked=asked,
        general=general,
        tokens=tokens,
        fact=fact,
        value=value,
    )
    targets = make_targets(shard, sinks, 0.5, torch.tensor([False, True]))
    wanted = torch.zeros(n)
    wanted[5:8] = torch.tensor([0.4, 0.8, 0.4])
    torch.testing.assert_close(targets.wanted[0], wanted)
    torch.testing.assert_close(
        targets.ordinary[0], torch.tensor([0, 0, 1, 1, 0, 0, 0, 0, 1, 0.7, 1, 0])
    )
    torch.testing.assert_close(targets.score[0, 9], torch.tensor(FLOOR + 0.3).log())
    assert float(regression_loss(targets.score, targets)) == 0


def test_the_bank_remembers_more_than_one_stream():
    bank = ThresholdBank(decay=0.5, sharpness=2.0, ratio=torch.tensor([4.0]))
    ones = torch.ones(1, 3)
    first, second = torch.tensor([[1.0, 0.0, 2.0]]), torch.tensor([[0.0, 3.0, 1.0]])
    bank.threshold(first, ones)
    found = bank.threshold(second, ones)
    mean = 0.5 * (2 * first).exp().mean() + 0.5 * (2 * second).exp().mean()
    torch.testing.assert_close(found[0], (4 * mean).log() / 2)


def test_ranking_raises_facts_and_lowers_the_highest_of_the_rest():
    scores = torch.tensor([[0.0, -5.0, 2.0, -1.0]], requires_grad=True)
    wanted = torch.tensor([[0.0, 0.0, 0.0, 1.0]])
    targets = Targets(torch.zeros(1, 4), torch.ones(1, 4), wanted, 1 - wanted)
    bank = ThresholdBank(0.9, 2.0, torch.tensor([10.0]))
    ranking_loss(scores, targets, bank.threshold(scores, targets.ordinary)).backward()
    gradient = scores.grad[0]
    assert gradient[3] < 0
    assert gradient[2] > gradient[0] > gradient[1] > 0


def test_calibrated_logits_exceed_zero_as_often_as_slots_allow():
    routers = random_routers()
    generator = torch.Generator().manual_seed(3)
    shards = [shard_of(*torch.randn(2, 2, 2, 500, 16, generator=generator)) for _ in range(4)]
    second = routers.lte_layers[1][0]
    calibrate(routers, shards, CalibrationConfig(saturation_tokens=100, layers={second: 50}))
    scores = torch.cat([routers(shard.k, shard.v) for shard in shards], dim=1)
    share = (scores > 0).float().mean(dim=1).view(2, 2)
    # Budgets are 12 and 9: of 100 ordinary tokens, or of 50, so many are worth a slot.
    expected = torch.tensor([[0.12, 0.09], [0.24, 0.18]])
    torch.testing.assert_close(share, expected, rtol=0, atol=0.002)


def test_survival_counts_what_outranks_a_long_stream():
    routers = random_routers()
    fact = torch.full((400,), NO_FACT, dtype=torch.int16)
    fact[100:110] = 0
    value = fact == 0
    k, v = torch.randn(2, 2, 2, 400, 16)
    shard = shard_of(k, v, asked=torch.ones(2, 2, 400), fact=fact, value=value)
    score = routers(k, v)
    results = survival(routers, [shard], [100, 4000])
    for result in results:
        floor = score[:, fact == NO_FACT].sort(dim=1, descending=True).values
        # Budgets are 12 and 9.
        place = [int(390 * budget / result.tokens) for budget in (12, 9, 12, 9)]
        alive = score[:, value] > floor[torch.arange(4), place][:, None]
        assert result.wanted == float(alive.float().mean())
        assert result.values == float(alive.all(dim=1).float().mean())
    assert results[0].wanted > results[1].wanted
