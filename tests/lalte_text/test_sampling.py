import math
from collections import Counter

import pytest
import torch

from lalte.sampling import SamplingError, SamplingParams, sample, uniform

VOCAB = 50


@pytest.fixture
def logits() -> torch.Tensor:
    return torch.randn(3, VOCAB, generator=torch.Generator().manual_seed(5)) * 2


def draws(row: torch.Tensor, params: SamplingParams, n: int = 4000) -> Counter[int]:
    history: list[int] = []
    return Counter(sample(row[None], [params], [history], [at])[0] for at in range(n))


def test_greedy_takes_the_largest_logit_of_each_lane(logits):
    ids = sample(logits, [SamplingParams()] * 3, [[]] * 3, [0, 1, 2])
    assert ids == logits.argmax(-1).tolist()


def test_draws_follow_the_softmax(logits):
    counts = draws(logits[0], SamplingParams(temperature=0.7, seed=1))
    expected = (logits[0].double() / 0.7).softmax(0)
    for token in range(VOCAB):
        p = float(expected[token])
        assert abs(counts[token] / 4000 - p) < 5 * math.sqrt(p * (1 - p) / 4000) + 1e-3


def test_top_k_keeps_the_k_most_likely(logits):
    counts = draws(logits[0], SamplingParams(temperature=5.0, top_k=3), 500)
    assert set(counts) == set(logits[0].topk(3).indices.tolist())


def test_top_p_keeps_the_smallest_set_that_reaches_p():
    row = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    assert set(draws(row, SamplingParams(temperature=1.0, top_p=0.7), 500)) == {0, 1}
    assert set(draws(row, SamplingParams(temperature=1.0, top_p=0.9), 500)) == {0, 1, 2}
    assert set(draws(row, SamplingParams(temperature=1.0, top_p=0.1), 500)) == {0}


def test_repetition_penalty_lowers_seen_tokens_of_either_sign():
    row = torch.tensor([2.0, 1.5, -1.0])
    penalised = SamplingParams(repetition_penalty=2.0)
    assert sample(row[None], [penalised], [[0, 0]], [0]) == [1]
    negative = torch.tensor([-1.0, -1.5])
    assert sample(negative[None], [penalised], [[0]], [0]) == [1]
    assert row.tolist() == [2.0, 1.5, -1.0]


def test_a_continued_generation_draws_what_an_uninterrupted_one_would(logits):
    params = SamplingParams(temperature=1.0, seed=7)
    whole = [sample(logits[:1], [params], [[]], [at])[0] for at in range(40)]
    resumed = [sample(logits[:1], [params], [[]], [at])[0] for at in range(25, 40)]
    assert whole[25:] == resumed
    assert len(set(whole)) > 1


def test_lanes_do_not_influence_each_other(logits):
    params = [SamplingParams(temperature=1.0, seed=s, top_k=k) for s, k in ((1, 0), (2, 5), (3, 9))]
    together = sample(logits, params, [[]] * 3, [4, 5, 6])
    alone = [sample(logits[i : i + 1], [params[i]], [[]], [4 + i])[0] for i in range(3)]
    assert together == alone


def test_the_random_numbers_are_pinned():
    # A change here changes every sampled reply of every deployment.
    assert uniform(0, 0) == 0.4902749044089816
    assert uniform(-1, 10**9) == 0.5235442678218576


def test_uniform_is_uniform():
    values = torch.tensor([uniform(3, at) for at in range(4000)])
    assert values.min() >= 0
    assert values.max() < 1
    assert abs(float(values.mean()) - 0.5) < 0.02


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("repetition_penalty", 0.0),
        ("seed", 2**63),
        ("max_tokens", 0),
    ],
)
def test_out_of_range_parameters_are_refused(field, value):
    with pytest.raises(SamplingError) as caught:
        SamplingParams(**{field: value})
    assert caught.value.field == field
