"""Attention that may look at nothing: the fast path is the definition, gradients included."""

import pytest
import torch

from lalte_kernels.null_attention import cpu, reference
from lalte_kernels.sparse_attention import reference as sparse

TOLERANCE = {torch.float64: 1e-11, torch.float32: 2e-5, torch.bfloat16: 3e-2}


def inputs(dtype, seed=20):
    print(f"seed {seed}")  # noqa: T201
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    compute = torch.float64 if dtype == torch.float64 else torch.float32
    visible = torch.rand(2, 3, 5, 9, generator=generator) < 0.5
    visible[0, 0, 0] = False  # a query may see no key at all
    return (
        draw(2, 3, 4, 5, 8),
        draw(2, 3, 9, 8),
        draw(2, 3, 9, 8),
        visible,
        draw(2, 3, 4, 5).to(compute),
    )


@pytest.mark.parametrize("dtype", list(TOLERANCE))
def test_the_fast_path_is_the_definition(dtype):
    arguments = inputs(dtype)
    expected = reference.null_attention(*arguments)
    assert expected.dtype == dtype
    assert not expected[0, 0, :, 0].any()
    tolerance = TOLERANCE[dtype]
    actual = cpu.null_attention(*arguments)
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=tolerance)


def test_the_null_logit_decides_the_share_of_attention():
    q, k, v, visible, _ = inputs(torch.float64)
    visible[...] = True
    alone = sparse.sparse_attention(q, k, v, visible)
    scores = torch.einsum("bhgnd,bhkd->bhgnk", q, k) * 8**-0.5
    mass = scores.logsumexp(dim=-1)
    actual = cpu.null_attention(q, k, v, visible, mass)
    torch.testing.assert_close(actual, alone / 2)


def test_gradients_reach_every_input():
    q, k, v, visible, null = inputs(torch.float64)
    leaves = [x.requires_grad_() for x in (q, k, v, null)]
    assert torch.autograd.gradcheck(
        lambda q, k, v, null: cpu.null_attention(q, k, v, visible, null), leaves
    )
