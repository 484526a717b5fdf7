"""The retention score: reference, CPU and Triton agree on logits and on every gradient."""

from itertools import pairwise

import pytest
import torch

from agreement import agree, close
from lalte_kernels import Router
from lalte_kernels.retention_score import cpu, reference, triton


def inputs(heads, rows, d):
    sizes = list(pairwise([2 * d, d, d // 2, d // 4]))
    return [
        *torch.randn(2, heads, rows, d),
        *(torch.randn(heads * out, into, 1, 3) * (3 * into) ** -0.5 for into, out in sizes),
        *(torch.randn(heads * out) for _, out in sizes),
        torch.randn(heads, d // 4, 1, 1),
        torch.randn(heads),
    ]


def scores(module, first, block=None):
    def run(k, v, *weights):
        router = Router(weights[:3], weights[3:6], weights[6], weights[7], 2)
        return module.retention_score(k, v, router, first, block)

    return run


@pytest.mark.parametrize(
    ("heads", "rows", "d", "first"),
    [(1, 46, 64, -5), (2, 14, 128, 0), (1, 13, 256, -14)],
)
def test_logits_and_gradients_agree(heads, rows, d, first):
    agree([scores(module, first) for module in (reference, cpu, triton)], inputs(heads, rows, d))


def test_bits_do_not_depend_on_how_many_blocks_are_scored():
    k, v, *weights = inputs(2, 58, 16)
    together = scores(triton, -20, 16)(k, v, *weights)
    apart = [
        scores(triton, at - 20, 16)(k[:, at : at + 28], v[:, at : at + 28], *weights)
        for at in range(0, 46, 16)
    ]
    assert torch.equal(torch.cat(apart, dim=1), together)
    close(together, scores(reference, -20)(k, v, *weights))


def test_gradients_of_blocks_are_summed():
    agree([scores(module, -7, 8) for module in (cpu, triton)], inputs(2, 30, 16))


def test_float64_is_refused():
    k, v, *weights = inputs(1, 13, 16)
    router = Router(tuple(weights[:3]), tuple(weights[3:6]), weights[6], weights[7], 2)
    assert triton.refusal(k, v, router, 0) is None
    assert "float64" in triton.refusal(k.double(), v.double(), router, 0)
