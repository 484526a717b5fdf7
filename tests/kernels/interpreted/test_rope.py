"""RoPE: reference, CPU and Triton turn alike, at positions of any size."""

import pytest
import torch

from agreement import agree, close
from lalte_kernels.rope import bounded_positions, cpu, reference, triton

IMPLEMENTATIONS = [x.rope for x in (reference, cpu, triton)]


@pytest.mark.parametrize(
    ("shape", "positions"),
    [((2, 2, 3, 40, 64), (2, 1, 1, 40)), ((1, 2, 7, 256), (7,)), ((3, 5, 8), (3, 5))],
)
def test_pairs_turn_by_relative_positions_and_gradients_turn_back(shape, positions):
    relative = torch.randint(-1_000_000, 100, positions)
    agree(IMPLEMENTATIONS, [torch.randn(shape)], relative, 1e4)


def test_retained_keys_turn_by_bounded_positions():
    position = torch.tensor([[3, 90_000, 2_000_000], [0, 1, -1]])
    relative = bounded_positions(position, 2_000_050, 100) - 2_000_050
    x = torch.randn(2, 3, 16)
    close(triton.rope(x, relative, 1e4), reference.rope(x, relative, 1e4))


def test_bfloat16_is_turned_in_float32():
    x, relative = torch.randn(2, 9, 64).bfloat16(), torch.arange(-9, 0)
    close(triton.rope(x, relative, 1e4), reference.rope(x, relative, 1e4))
