"""Sparse attention: reference, CPU and Triton agree on outputs and gradients."""

import pytest
import torch

from agreement import agree, close
from lalte_kernels.sparse_attention import cpu, reference, triton

IMPLEMENTATIONS = [x.sparse_attention for x in (reference, cpu, triton)]


def inputs(batch, heads, group, n, d, keys):
    return [
        torch.randn(batch, heads, group, n, d),
        torch.randn(batch, heads, keys, d),
        torch.randn(batch, heads, keys, d),
    ]


def block_mask(batch, heads, n, keys, tail):
    """Each batch row at an offset of its own in its block, over a cached state with gaps."""
    offset = torch.arange(batch)[:, None, None, None] + torch.arange(n)[:, None]
    visible = (torch.arange(tail) <= offset).expand(batch, heads, n, tail)
    return visible, torch.rand(batch, heads, keys - tail) < 0.5


@pytest.mark.parametrize(
    ("batch", "heads", "group", "n", "d", "keys", "tail"),
    [
        (2, 1, 3, 1, 64, 70, 8),
        (1, 2, 1, 37, 64, 75, 40),
        (2, 1, 4, 5, 128, 50, 20),
        (1, 1, 3, 6, 256, 40, 10),
        (1, 1, 4, 3, 24, 33, 33),
    ],
)
def test_a_block_on_a_cached_state_sees_what_the_masks_say(batch, heads, group, n, d, keys, tail):
    masks = block_mask(batch, heads, n, keys, tail)
    agree(IMPLEMENTATIONS, inputs(batch, heads, group, n, d, keys), *masks)


def test_a_mask_of_every_key_for_every_query():
    visible = torch.rand(2, 1, 9, 80) < 0.1
    visible[..., 77] = True
    agree(IMPLEMENTATIONS, inputs(2, 2, 2, 9, 16, 80), visible)


def test_hidden_keys_hold_anything_finite():
    q, k, v = inputs(1, 1, 2, 4, 16, 40)
    masks = block_mask(1, 1, 4, 40, 8)
    expected = triton.sparse_attention(q, k, v, *masks)
    hidden = torch.cat([~masks[1], torch.zeros(1, 1, 8, dtype=torch.bool)], dim=-1)
    k[hidden], v[hidden] = 1e30, -1e30
    assert torch.equal(triton.sparse_attention(q, k, v, *masks), expected)


def test_rows_of_a_larger_buffer_are_read_in_place():
    q, k, v = inputs(1, 2, 2, 3, 16, 20)
    buffer = torch.full((1, 2, 31, 16), float("nan"))
    buffer[:, :, 5:25] = k
    masks = block_mask(1, 2, 3, 20, 4)
    actual = triton.sparse_attention(q, buffer[:, :, 5:25], v, *masks)
    assert torch.equal(actual, triton.sparse_attention(q, k, v, *masks))


# The interpreter has no products of bfloat16; float16 takes the same road through the kernel.
def test_half_precision_sums_in_float32():
    given = [x.half() for x in inputs(1, 2, 3, 9, 64, 50)]
    masks = block_mask(1, 2, 9, 50, 20)
    actual = triton.sparse_attention(*given, *masks)
    assert actual.dtype == torch.float16
    close(actual, reference.sparse_attention(*given, *masks))


def test_what_the_kernels_cannot_multiply_is_refused():
    q, k, v = inputs(1, 1, 1, 1, 16, 4)
    visible = torch.ones(1, 1, 1, 4, dtype=torch.bool)
    assert triton.refusal(q, k, v, visible) is None
    assert "float64" in triton.refusal(q.double(), k.double(), v.double(), visible)
    assert "float32 and torch.float16" in triton.refusal(q, k, v.half(), visible)
    wide = torch.zeros(1, 1, 1, 1, 257)
    assert "257" in triton.refusal(wide, wide[0], wide[0], visible)
