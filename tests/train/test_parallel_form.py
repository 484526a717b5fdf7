"""The form over whole sequences is the model that is served, and its gradients are the paper's."""

import pytest
import torch

from lalte.config import ModelConfig
from lalte.family import MEMBERS, member
from lalte.init import random_model
from lalte.presets import tiny_lalte
from lalte.train.parallel import ParallelModel, excess, router_logits, straight_through
from lalte.train.tasks import IGNORED
from lalte_kernels import Router, retention_score

LENGTH = 100
ROOMY = 200  # a budget that no head exceeds at LENGTH


def tokens_of(seed: int, batch: int = 2) -> torch.Tensor:
    return torch.randint(512, (batch, LENGTH), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    "config",
    [
        tiny_lalte(("gdn", "gdn")),
        tiny_lalte(("gdn", "swa")),
        tiny_lalte(("full", "full")),
        member("lansa", "tiny"),
        tiny_lalte(budget=ROOMY, position_span=400),
        tiny_lalte(budget=ROOMY, position_span=400, eviction_grid="token"),
    ],
    ids=["gdn", "gdn+swa", "full", "lansa", "lalte", "lalte, evicting each token"],
)
def test_whole_sequences_give_the_logits_of_streaming(config: ModelConfig):
    model = random_model(config, seed=1)
    tokens = tokens_of(2)
    whole = ParallelModel(model).eval().logits(tokens)
    torch.testing.assert_close(whole, model.logits(tokens), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", MEMBERS)
def test_every_member_can_be_trained_with_products_in_half_precision(name: str):
    config = member(name, "tiny")
    model = ParallelModel(random_model(config, seed=1)).train()
    tokens = tokens_of(2)
    strength = torch.zeros(sum(layer.kind == "lte" for layer in config.layers), 4)
    full = model(tokens, tokens, strength).total
    with torch.autocast("cpu", torch.bfloat16):
        half = model(tokens, tokens, strength).total
    half.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    torch.testing.assert_close(half, full, rtol=0.05, atol=0)


def test_router_logits_are_those_of_the_kernel_over_batches():
    model = random_model(tiny_lalte(), seed=3)
    router = model.model.layers[1].attn.router.weights()
    generator = torch.Generator().manual_seed(4)
    k, v = (torch.randn(2, 2, LENGTH, 16, generator=generator) for _ in range(2))
    found = router_logits(router, k, v, dropout=0.0)
    for lane in range(2):
        padded = [torch.cat([x[lane].new_zeros(2, 6, 16), x[lane]], dim=1) for x in (k, v)]
        expected = retention_score(padded[0], padded[1], router, -6)
        # The kernel says nothing of the last six: their scores need tokens yet to come.
        torch.testing.assert_close(found[lane, :, :-6], expected, rtol=0, atol=1e-5)


def test_the_score_gets_the_gradient_that_multiplying_the_value_would_give():
    generator = torch.Generator().manual_seed(5)
    v = torch.randn(2, 3, 7, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    r = torch.rand(2, 3, 7, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 3, 7, 4, generator=generator, dtype=torch.float64)
    out = straight_through(v, r)
    assert torch.equal(out, v)
    (out * weight).sum().backward()
    torch.testing.assert_close(r.grad, (weight * v.detach()).sum(-1))
    torch.testing.assert_close(v.grad, weight)


def test_every_parameter_learns_from_the_loss():
    model = ParallelModel(random_model(tiny_lalte(), seed=6)).train()
    tokens = tokens_of(7)
    strength = torch.full((2, 2), 1e-3)
    losses = model(tokens[:, :-1], tokens[:, 1:], strength)
    (losses.total + losses.penalty).backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


def test_the_penalty_pulls_scores_down_and_counts_each_head_by_its_strength():
    model = ParallelModel(random_model(tiny_lalte(), seed=8)).eval()
    tokens = tokens_of(9)
    ignored = torch.full_like(tokens, IGNORED)
    one = torch.zeros(2, 2)
    one[0, 0] = 1.0
    losses = model(tokens, ignored, one)
    assert losses.total == 0
    losses.penalty.backward()
    touched = {
        (name.split(".")[3], head)
        for name, p in model.named_parameters()
        if "router.conv_stack.proj.weight" in name
        for head in range(2)
        if p.grad is not None and p.grad[head].any()
    }
    assert touched == {("1", 0)}
    doubled = model(tokens, ignored, 2 * one).penalty
    torch.testing.assert_close(doubled, 2 * losses.penalty)


@pytest.mark.parametrize("late", [6, 7])
def test_a_token_whose_score_reads_beyond_the_end_neither_costs_nor_counts(late: int):
    def last(router: Router, k: torch.Tensor, v: torch.Tensor, dropout: float) -> torch.Tensor:
        return torch.where(torch.arange(LENGTH) >= LENGTH - late, 5.0, -5.0).expand(k.shape[:-1])

    model = ParallelModel(random_model(tiny_lalte(), seed=13), score=last).eval()
    tokens = tokens_of(14)
    losses = model(tokens, tokens, torch.ones(2, 2))
    counted = late - 6
    torch.testing.assert_close(losses.share, torch.full((2, 2), counted / (LENGTH - 6)))
    assert bool(losses.penalty > 0) == bool(counted)


def test_dropout_is_for_training_alone():
    model = ParallelModel(random_model(tiny_lalte(), seed=10), dropout=0.5)
    tokens = tokens_of(11)
    model.eval()
    assert torch.equal(model.logits(tokens), model.logits(tokens))
    model.train()
    torch.manual_seed(12)
    first = model(tokens, tokens, torch.ones(2, 2)).penalty
    assert first != model(tokens, tokens, torch.ones(2, 2)).penalty


def test_what_is_dropped_costs_nothing():
    r = torch.tensor([0.1, 0.5, 0.6, 1.0])
    torch.testing.assert_close(excess(r), torch.tensor([0.0, 0.0, 0.1, 0.5]))
