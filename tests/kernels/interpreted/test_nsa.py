"""NSA: reference, CPU and Triton agree on outputs and on the gradient of every input."""

import pytest
import torch

from agreement import agree, close
from lalte_kernels.nsa import Sparsity, cpu, reference, triton
from lalte_kernels.nsa.triton.choice import MOST_BLOCKS

IMPLEMENTATIONS = [x.nsa for x in (reference, cpu, triton)]


def inputs(starts, n, sparsity, *, group, d, heads=1, spare=3):
    """The op's tensors; rows and blocks behind the last query hold numbers that must not show."""
    batch, rows = len(starts), max(starts) + n + spare
    k, v = torch.randn(2, batch, heads, rows, d)
    pooled = [reference.pool_blocks(x, sparsity.block_size) for x in (k, v)]
    gates = torch.rand(batch, heads, group, n, 3)
    return [torch.randn(batch, heads, group, n, d), k, v, *pooled, gates]


@pytest.mark.parametrize(
    ("starts", "n", "group", "d", "heads", "sparsity"),
    [
        ([150, 2], 1, 3, 64, 1, Sparsity(4, 5, 7)),  # a decoding step, with and without blocks
        ([0, 13], 9, 4, 64, 1, Sparsity(4, 4, 70)),
        ([7], 40, 1, 64, 1, Sparsity(5, 4, 9)),  # a key tile's last query is a row tile's first
        ([30], 5, 3, 128, 2, Sparsity(8, 3, 6)),
        ([60], 3, 1, 256, 1, Sparsity(20, 3, 8)),  # blocks larger than a tile
    ],
)
def test_every_branch_agrees_with_its_gradients(starts, n, group, d, heads, sparsity):
    given = inputs(starts, n, sparsity, group=group, d=d, heads=heads)
    agree(IMPLEMENTATIONS, given, torch.tensor(starts), sparsity)


def test_a_stream_shorter_than_a_block_has_nothing_compressed():
    sparsity = Sparsity(16, 3, 4)
    given = inputs([0], 6, sparsity, group=2, d=16)
    assert given[3].shape[2] == 0
    agree(IMPLEMENTATIONS, given, torch.tensor([0]), sparsity)


def test_equal_scores_choose_the_older_block():
    sparsity = Sparsity(4, 5, 2)
    given = inputs([39], 1, sparsity, group=2, d=16)
    given[3] = torch.zeros_like(given[3])  # every block scores the same
    arguments = (*given, torch.tensor([39]), sparsity)
    close(triton.nsa(*arguments), reference.nsa(*arguments))


def test_buffers_with_room_are_read_in_place():
    sparsity = Sparsity(4, 4, 6)
    given = inputs([21], 2, sparsity, group=3, d=16, heads=2)
    expected = triton.nsa(*given, torch.tensor([21]), sparsity)
    for number in range(1, 5):
        rows = given[number]
        buffer = torch.full((1, 2, rows.shape[2] + 9, 20), float("nan"))
        buffer[:, :, 3:-6, :16] = rows
        given[number] = buffer[:, :, 3:-6, :16]
    assert torch.equal(triton.nsa(*given, torch.tensor([21]), sparsity), expected)


def test_what_the_kernels_cannot_take_is_refused():
    sparsity = Sparsity(1, 3, 6)
    given = inputs([0], 1, sparsity, group=1, d=16)
    start = torch.tensor([0])
    assert triton.refusal(*given, start, sparsity) is None
    assert "float64" in triton.refusal(given[0].double(), *given[1:], start, sparsity)
    given[1] = torch.zeros(1, 1, MOST_BLOCKS + 1, 1)
    assert str(MOST_BLOCKS + 1) in triton.refusal(*given, start, sparsity)
