"""The short convolution: reference, CPU and Triton agree on outputs, tails and gradients."""

import pytest
import torch

from agreement import agree, close
from lalte_kernels.short_conv import cpu, reference, triton

IMPLEMENTATIONS = [x.short_conv for x in (reference, cpu, triton)]


@pytest.mark.parametrize(
    ("batch", "n", "channels", "kernel"),
    [(2, 1, 6, 4), (2, 2, 70, 4), (1, 33, 64, 4), (2, 9, 5, 3)],
)
def test_taps_and_tails_agree_with_their_gradients(batch, n, channels, kernel):
    agree(
        IMPLEMENTATIONS,
        [
            torch.randn(batch, n, channels),
            torch.randn(channels, kernel),
            torch.randn(batch, kernel - 1, channels),
        ],
    )


def test_bfloat16_is_summed_in_float32():
    given = [torch.randn(shape).bfloat16() for shape in ((1, 9, 8), (8, 4), (1, 3, 8))]
    output, after = triton.short_conv(*given)
    expected, expected_after = reference.short_conv(*given)
    close(output, expected)
    assert torch.equal(after, expected_after)


def test_a_tail_holds_no_more_than_itself():
    _, after = triton.short_conv(torch.randn(1, 50, 8), torch.randn(8, 4), torch.randn(1, 3, 8))
    assert after.untyped_storage().nbytes() == after.nbytes
