"""What queries see while eviction goes on inside their block: the implementations see the same."""

import pytest
import torch

from lalte_kernels.retained_visibility import cpu, reference, triton


def case(generator, heads, rows, n, window):
    """A partly filled buffer, and leaving tokens of few different logits: many ties."""

    def draw(low, high):
        return int(torch.randint(low, high + 1, (), generator=generator))

    start, sinks = draw(0, 3 * window), draw(0, 5)
    budgets = torch.randint(0, rows + 1, (heads,), generator=generator)
    position = torch.full((heads, rows), -1)
    logit = torch.zeros(heads, rows)
    for head in range(heads):
        older = max(start - window, 0)
        used = draw(0, min(int(budgets[head]), older))
        position[head, :used] = torch.randperm(older, generator=generator)[:used].sort().values
        logit[head, :used] = torch.randint(1, 4, (used,), generator=generator) / 2
    leaving = torch.randint(-1, 4, (heads, n), generator=generator) / 2
    return logit, position, leaving, window, start, budgets, sinks


@pytest.mark.parametrize("seed", range(12))
def test_every_query_sees_what_the_online_rule_holds(seed):
    generator = torch.Generator().manual_seed(seed)
    heads, rows, n, extra = (
        int(torch.randint(low, high, (), generator=generator))
        for low, high in ((1, 4), (1, 9), (1, 9), (0, 12))
    )
    given = case(generator, heads, rows, n, n + extra)
    expected = reference.retained_visibility(*given)
    assert torch.equal(triton.retained_visibility(*given), expected)
    assert torch.equal(cpu.retained_visibility(*given), expected)


def test_more_tokens_than_a_program_holds_are_refused():
    given = case(torch.Generator().manual_seed(1), 1, 8, 4, 6)
    assert triton.refusal(*given) is None
    assert "4104" in triton.refusal(*given[:3], 4096, *given[4:])
