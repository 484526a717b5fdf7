"""Attention that may look at nothing: reference, CPU and Triton agree on outputs and gradients."""

import pytest
import torch

from agreement import agree
from lalte_kernels.null_attention import cpu, reference, triton

IMPLEMENTATIONS = [x.null_attention for x in (reference, cpu, triton)]


def case(batch, heads, group, n, d, keys):
    """Inputs and a mask, each batch row at an offset of its own; the first query sees no key."""
    inputs = [
        torch.randn(batch, heads, group, n, d),
        torch.randn(batch, heads, keys, d),
        torch.randn(batch, heads, keys, d),
        2 * torch.randn(batch, heads, group, n),
    ]
    offset = torch.arange(batch)[:, None, None, None] + torch.arange(n)[:, None]
    visible = (torch.arange(keys) <= offset + 3) & (torch.rand(batch, heads, n, keys) < 0.6)
    visible[0, 0, 0] = False
    return inputs, visible


def in_order(run, visible):
    return lambda q, k, v, null: run(q, k, v, visible, null)


@pytest.mark.parametrize(
    ("batch", "heads", "group", "n", "d", "keys"),
    [(2, 1, 3, 1, 64, 20), (1, 2, 1, 35, 64, 70), (2, 1, 4, 5, 128, 40), (1, 1, 3, 6, 256, 37)],
)
def test_the_null_key_takes_its_share_and_its_gradient(batch, heads, group, n, d, keys):
    inputs, visible = case(batch, heads, group, n, d, keys)
    agree([in_order(run, visible) for run in IMPLEMENTATIONS], inputs)


def test_a_null_logit_far_above_or_below_every_score_is_exact():
    (q, k, v, null), visible = case(1, 1, 1, 4, 16, 8)
    visible[...] = True
    null[...] = torch.tensor([1e30, 200.0, -200.0, -1e30])
    out = triton.null_attention(q, k, v, visible, null)[0, 0, 0]
    assert not out[:2].any()
    alone = torch.nn.functional.scaled_dot_product_attention(q[0, 0], k[0, 0][None], v[0, 0][None])
    torch.testing.assert_close(out[2:], alone[0, 2:])
