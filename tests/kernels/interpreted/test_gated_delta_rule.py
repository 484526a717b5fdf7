"""The gated delta rule: reference, CPU and Triton agree on outputs, states and gradients."""

import warnings

import pytest
import torch
from torch.nn import functional

from agreement import agree, close
from lalte_kernels.gated_delta_rule import cpu, reference, triton

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it says that there is no GPU
    from lalte_kernels.gated_delta_rule import fla

IMPLEMENTATIONS = [x.gated_delta_rule for x in (reference, cpu, triton)]


def inputs(batch, n, heads, d_k, d_v):
    keys = (batch, n, heads, d_k)
    return [
        functional.normalize(torch.randn(keys), dim=-1) * d_k**-0.5,
        functional.normalize(torch.randn(keys), dim=-1),
        torch.randn(batch, n, heads, d_v),
        -torch.rand(batch, n, heads) * 2,
        torch.rand(batch, n, heads),
        torch.randn(batch, heads, d_k, d_v),
    ]


# The chunk has 32 tokens for heads up to 64 and 16 beyond.
@pytest.mark.parametrize(
    ("batch", "n", "heads", "d_k", "d_v"),
    [
        (2, 1, 3, 16, 16),
        (2, 33, 1, 64, 64),
        (1, 64, 2, 24, 40),
        (1, 21, 1, 128, 128),
        (1, 17, 1, 256, 24),
        (1, 35, 1, 128, 32),
    ],
)
def test_chunks_are_the_recurrence_in_outputs_states_and_gradients(batch, n, heads, d_k, d_v):
    agree(IMPLEMENTATIONS, inputs(batch, n, heads, d_k, d_v))


@pytest.mark.parametrize(
    ("batch", "n", "heads", "d"), [(2, 1, 2, 64), (1, 1, 3, 128), (1, 1, 1, 256), (2, 5, 2, 24)]
)
def test_few_tokens_without_gradients_are_read_one_by_one(batch, n, heads, d):
    given = inputs(batch, n, heads, d, d)
    for run in (triton.gated_delta_rule, fla.gated_delta_rule):
        for actual, expected in zip(run(*given), reference.gated_delta_rule(*given), strict=True):
            close(actual, expected)


def test_a_stream_goes_on_from_any_state_in_pieces_of_any_length():
    q, k, v, g, beta, state = inputs(1, 60, 1, 16, 16)
    whole, end = triton.gated_delta_rule(q, k, v, g, beta, state)
    pieces, first = [], 0
    for length in (1, 20, 33, 6):
        rows = slice(first, first + length)
        piece = [x[:, rows] for x in (q, k, v, g, beta)]
        output, state = triton.gated_delta_rule(*piece, state)
        pieces.append(output)
        first += length
    close(torch.cat(pieces, dim=1), whole)
    close(state, end)


def test_equal_keys_that_write_in_full_stay_exact():
    # Powers of the chunk's triangle have entries of some 1e8 here: summing them would lose all.
    q, k, v, g, beta, state = inputs(1, 32, 1, 16, 16)
    k = k[:, :1].expand_as(k)
    given = (q, k, v, torch.zeros_like(g), torch.ones_like(beta), state)
    for actual, expected in zip(
        triton.gated_delta_rule(*given), reference.gated_delta_rule(*given), strict=True
    ):
        close(actual, expected)


def test_gates_that_forget_everything_leave_numbers():
    q, k, v, g, beta, state = inputs(1, 40, 1, 16, 16)
    output, state = triton.gated_delta_rule(q, k, v, g * 100, beta, state)
    assert output.isfinite().all()
    assert state.isfinite().all()


def test_float64_and_wide_keys_are_refused():
    given = inputs(1, 2, 1, 16, 16)
    assert triton.refusal(*given) is None
    assert "float64" in triton.refusal(*(x.double() for x in given))
    assert "257" in triton.refusal(*inputs(1, 2, 1, 257, 16))
