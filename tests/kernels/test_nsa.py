"""NSA: the fast path is the definition, and the definition is what others' code computes."""

import warnings

import pytest
import torch
from torch.nn import functional

from lalte_kernels.nsa import Sparsity, cpu, reference

TOLERANCE = {torch.float64: 1e-11, torch.float32: 2e-5, torch.bfloat16: 3e-2}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(20)
    torch.set_num_threads(1)


def inputs(starts, n, sparsity, *, group=2, d=16, heads=2, spare=0, dtype=torch.float32):
    """The op's arguments. Rows and blocks behind the last query hold numbers that must not show."""
    batch, rows = len(starts), max(starts) + n + spare
    q = torch.randn(batch, heads, group, n, d, dtype=dtype)
    k, v = (torch.randn(batch, heads, rows, d, dtype=dtype) for _ in range(2))
    pooled = [reference.pool_blocks(x, sparsity.block_size) for x in (k, v)]
    gates = torch.rand(batch, heads, group, n, 3, dtype=dtype)
    return q, k, v, *pooled, gates, torch.tensor(starts), sparsity


def close(actual, expected):
    tolerance = TOLERANCE[expected.dtype]
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=tolerance)


SHORT, LONG = Sparsity(4, 5, 7), Sparsity(4, 3, 5)


# With LONG the streams are so much longer than what is read in full that rows are copied.
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("group", [1, 3, 4])
@pytest.mark.parametrize(
    ("starts", "n", "sparsity"),
    [
        ([0], 1, SHORT),
        ([0, 0], 30, SHORT),
        ([17, 3], 5, SHORT),
        ([100, 117, 0], 9, LONG),
        ([170], 1, LONG),
    ],
)
def test_cpu_is_the_definition(starts, n, sparsity, group, dtype):
    arguments = inputs(starts, n, sparsity, group=group, spare=6, dtype=dtype)
    close(cpu.nsa(*arguments), reference.nsa(*arguments))


@pytest.mark.parametrize("d", [64, 128, 256])
def test_head_sizes_of_real_models(d):
    arguments = inputs([1300], 3, Sparsity(64, 3, 32), d=d)
    close(cpu.nsa(*arguments), reference.nsa(*arguments))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_pooling_is_the_mean_of_complete_blocks(dtype):
    x = torch.randn(2, 3, 22, 16, dtype=dtype)
    pooled = cpu.pool_blocks(x, 4)
    assert pooled.shape == (2, 3, 5, 16)
    close(pooled, reference.pool_blocks(x, 4))
    close(pooled[..., 1, :], x[..., 4:8, :].mean(dim=-2))


@pytest.mark.parametrize(("start", "sparsity"), [(11, SHORT), (111, LONG)])
def test_what_lies_behind_the_query_does_not_show(start, sparsity):
    arguments = inputs([start], 6, sparsity, spare=9)
    expected = cpu.nsa(*arguments)
    q, k, v, pooled_k, pooled_v, gates, start, sparsity = arguments
    end = int(start) + 6
    for rows in (k, v):
        rows[:, :, end:] = 1e4
    for blocks in (pooled_k, pooled_v):
        blocks[:, :, end // sparsity.block_size :] = 1e4
    changed = cpu.nsa(q, k, v, pooled_k, pooled_v, gates, start, sparsity)
    assert torch.equal(changed, expected)


def test_equal_scores_choose_the_older_block():
    arguments = list(inputs([39], 1, Sparsity(4, 4, 1), group=1, heads=1))
    arguments[3] = torch.zeros_like(arguments[3])  # every block scores the same
    arguments[5] = torch.tensor([0.0, 1.0, 0.0]).expand(1, 1, 1, 1, 3)
    q, k, v = (x[0, 0] for x in arguments[:3])
    rows = [j for c in (0, 1, 8, 9) for j in range(4 * c, 4 * c + 4)]
    weight = (k[rows] @ q[0, 0] / 4).softmax(dim=0)
    for path in (cpu, reference):
        close(path.nsa(*arguments)[0, 0, 0, 0], weight @ v[rows])


@pytest.mark.parametrize(("n", "sparsity"), [(34, SHORT), (80, LONG)])
def test_gradients_are_those_of_the_definition(n, sparsity):
    given = inputs([0], n, sparsity, dtype=torch.float64)
    weight = torch.randn_like(given[0])

    def gradients(path):
        leaves = [x.clone().requires_grad_() for x in (*given[:3], given[5])]
        q, k, v, gates = leaves
        pooled = [path.pool_blocks(x, sparsity.block_size) for x in (k, v)]
        out = path.nsa(q, k, v, *pooled, gates, given[6], sparsity)
        return torch.autograd.grad((out * weight).sum(), leaves)

    for actual, expected in zip(gradients(cpu), gradients(reference), strict=True):
        assert actual.isfinite().all()
        close(actual, expected)


def test_the_definition_passes_gradcheck():
    # Continuous only between changes of the choice, hence few blocks: all of them are chosen.
    given = inputs([0], 9, Sparsity(3, 3, 4), group=1, heads=1, d=4, dtype=torch.float64)

    def run(q, k, v, gates):
        pooled = [reference.pool_blocks(x, 3) for x in (k, v)]
        return reference.nsa(q, k, v, *pooled, gates, given[6], given[7])

    leaves = [x.clone().requires_grad_() for x in (*given[:3], given[5])]
    assert torch.autograd.gradcheck(run, leaves)


def fla_naive():
    """flash-linear-attention's naive functions; importing it without a GPU warns."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("fla.ops.nsa.naive")


@pytest.mark.parametrize("num_blocks", [3, 5, 16])
def test_parity_with_flash_linear_attention(num_blocks):
    naive = fla_naive()
    batch, heads, group, n, d = 2, 2, 16, 75, 16
    sparsity = Sparsity(8, num_blocks, 20)
    q, k, v, _, _, gates, start, _ = inputs([0] * batch, n, sparsity, group=group, d=d)
    blocks = -(-n // sparsity.block_size)
    # It pools the unfinished block as well (no query sees it); padding stands for its kernel.
    padding = (0, 0, 0, blocks * sparsity.block_size - n)
    pooled = [
        functional.pad(x, padding).unflatten(2, (blocks, -1)).mean(dim=3).transpose(1, 2)
        for x in (k, v)
    ]
    # Its layout: [batch, n, heads, d].
    theirs_q = q.permute(0, 3, 1, 2, 4).reshape(batch, n, heads * group, d)
    theirs_k, theirs_v = k.transpose(1, 2), v.transpose(1, 2)
    scale = d**-0.5
    compressed, _ = naive.naive_nsa_compression(theirs_q, *pooled, sparsity.block_size, scale)
    chosen = naive.naive_nsa_topk(theirs_q, pooled[0], num_blocks, sparsity.block_size, scale)
    selected = naive.naive_nsa_selection(
        theirs_q, theirs_k, theirs_v, chosen, sparsity.block_size, scale
    )
    # Its window branch is flash attention, which needs a GPU: torch's attention stands for it.
    row = torch.arange(n)
    band = (row[None] <= row[:, None]) & (row[None] > row[:, None] - sparsity.window)
    window = functional.scaled_dot_product_attention(
        theirs_q.transpose(1, 2),
        k.repeat_interleave(group, dim=1),
        v.repeat_interleave(group, dim=1),
        attn_mask=band,
    ).transpose(1, 2)
    gate = gates.permute(0, 3, 1, 2, 4).reshape(batch, n, heads * group, 3)
    expected = compressed * gate[..., :1] + selected * gate[..., 1:2] + window * gate[..., 2:]

    pools = [cpu.pool_blocks(x, sparsity.block_size) for x in (k, v)]
    actual = cpu.nsa(q, k, v, *pools, gates, start, sparsity)
    actual = actual.permute(0, 3, 1, 2, 4).reshape(expected.shape)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)
