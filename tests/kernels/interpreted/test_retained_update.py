"""Online eviction: reference, CPU and Triton hold the same tokens."""

import pytest
import torch

from lalte_kernels.retained_update import cpu, reference, triton


def case(generator, heads, rows, blocks, block):
    """A partly filled buffer, and leaving tokens of few different logits: many ties."""

    def draw(low, high):
        return int(torch.randint(low, high + 1, (), generator=generator))

    first, sinks = draw(-5, 30), draw(0, 5)
    budgets = torch.randint(0, rows + 1, (heads,), generator=generator)
    position = torch.full((heads, rows), -1)
    logit = torch.zeros(heads, rows)
    for head in range(heads):
        used = draw(0, min(int(budgets[head]), max(first, 0)))
        older = torch.randperm(max(first, 1), generator=generator)[:used].sort().values
        position[head, :used] = older
        logit[head, :used] = torch.randint(1, 4, (used,), generator=generator) / 2
    leaving = torch.randint(-1, 4, (heads, blocks * block), generator=generator) / 2
    return logit, position, leaving, first, budgets, sinks, block


@pytest.mark.parametrize("seed", range(25))
def test_every_block_holds_what_the_online_rule_holds(seed):
    generator = torch.Generator().manual_seed(seed)
    shape = [int(torch.randint(1, high, (), generator=generator)) for high in (4, 9, 4, 6)]
    given = case(generator, *shape)
    expected = reference.retained_update(*given)
    assert torch.equal(triton.retained_update(*given), expected)
    assert torch.equal(cpu.retained_update(*given), expected)


def test_a_buffer_of_real_size_agrees_with_the_sorted_one():
    given = case(torch.Generator().manual_seed(1), 2, 100, 2, 60)
    assert torch.equal(triton.retained_update(*given), cpu.retained_update(*given))


def test_more_candidates_than_a_program_holds_are_refused():
    given = case(torch.Generator().manual_seed(1), 1, 8, 1, 4)
    assert triton.refusal(*given) is None
    long = (given[0], given[1], torch.zeros(1, 4096), *given[3:])
    assert "4104" in triton.refusal(*long)
