"""Every op's fast path computes what its reference defines."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from lalte_kernels import Router
from lalte_kernels.gated_delta_rule import cpu as delta_cpu
from lalte_kernels.gated_delta_rule import reference as delta_reference
from lalte_kernels.products import product_of_bf16
from lalte_kernels.retained_update import cpu as update_cpu
from lalte_kernels.retained_update import reference as update_reference
from lalte_kernels.retained_visibility import cpu as visibility_cpu
from lalte_kernels.retained_visibility import reference as visibility_reference
from lalte_kernels.retention_score import cpu as score_cpu
from lalte_kernels.retention_score import reference as score_reference
from lalte_kernels.rope import bounded_positions
from lalte_kernels.rope import cpu as rope_cpu
from lalte_kernels.rope import reference as rope_reference
from lalte_kernels.short_conv import cpu as conv_cpu
from lalte_kernels.short_conv import reference as conv_reference
from lalte_kernels.sparse_attention import cpu as attention_cpu
from lalte_kernels.sparse_attention import reference as attention_reference

TOLERANCE = {torch.float64: 1e-11, torch.float32: 2e-5, torch.bfloat16: 3e-2}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(20)
    torch.set_num_threads(1)


def close(actual, expected):
    tolerance = TOLERANCE[expected.dtype]
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=tolerance)


def delta_inputs(n, dtype):
    batch, heads, dk, dv = 2, 3, 8, 12
    return (
        functional.normalize(torch.randn(batch, n, heads, dk, dtype=dtype), dim=-1) * dk**-0.5,
        functional.normalize(torch.randn(batch, n, heads, dk, dtype=dtype), dim=-1),
        torch.randn(batch, n, heads, dv, dtype=dtype),
        -torch.rand(batch, n, heads, dtype=dtype) * 3,
        torch.rand(batch, n, heads, dtype=dtype),
        torch.randn(batch, heads, dk, dv, dtype=dtype),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [1, 2, 7, 64, 130])
def test_chunked_delta_rule_is_the_recurrence(n, dtype):
    inputs = delta_inputs(n, dtype)
    output, state = delta_cpu.gated_delta_rule(*inputs)
    expected, expected_state = delta_reference.gated_delta_rule(*inputs)
    close(output, expected)
    close(state, expected_state)


def test_delta_rule_survives_gates_that_forget_everything():
    q, k, v, g, beta, state = delta_inputs(64, torch.float32)
    output, state = delta_cpu.gated_delta_rule(q, k, v, g * 100, beta, state)
    assert output.isfinite().all()
    assert state.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("n", [1, 2, 9])
def test_short_conv_is_torchs_convolution(n, dtype):
    x, tail = torch.randn(2, n, 6, dtype=dtype), torch.randn(2, 3, 6, dtype=dtype)
    weight = torch.randn(6, 4, dtype=dtype)
    output, after = conv_cpu.short_conv(x, weight, tail)
    expected, expected_after = conv_reference.short_conv(x, weight, tail)
    close(output, expected)
    assert torch.equal(after, expected_after)
    whole = torch.cat([tail, x], dim=1)
    torchs = functional.silu(
        functional.conv1d(whole.mT.float(), weight.float()[:, None], groups=6)
    ).mT
    torch.testing.assert_close(output.float(), torchs, atol=2e-2, rtol=2e-2)
    assert torch.equal(after, whole[:, -3:])


def make_router(heads, d, dtype):
    sizes = [2 * d, d, d // 2, d // 4]
    pairs = list(pairwise(sizes))
    return Router(
        tuple(torch.randn(heads * o, i, 1, 3, dtype=dtype) * (3 * i) ** -0.5 for i, o in pairs),
        tuple(torch.randn(heads * o, dtype=dtype) for _, o in pairs),
        torch.randn(heads, d // 4, 1, 1, dtype=dtype),
        torch.randn(heads, dtype=dtype),
        2,
    )


def torch_layers_score(k, v, router):
    """The same CNN out of plain torch layers, over a whole stream from position 0 on."""
    heads = k.shape[0]
    x = torch.cat([k, v], dim=-1).mT.reshape(1, -1, k.shape[1])
    for weight, bias in zip(router.conv_weights, router.conv_biases, strict=True):
        layer = torch.nn.Conv1d(
            weight.shape[1] * heads, weight.shape[0], 3, dilation=2, padding=2, groups=heads
        ).to(k.dtype)
        layer.weight.data, layer.bias.data = weight[:, :, 0], bias
        x = functional.silu(layer(x))
    layer = torch.nn.Conv1d(x.shape[1], heads, 1, groups=heads).to(k.dtype)
    layer.weight.data, layer.bias.data = router.proj_weight[:, :, 0], router.proj_bias
    return layer(x)[0].detach()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_retention_score_is_the_convolution_stack(dtype):
    heads, n, d = 2, 40, 8
    k, v = torch.randn(heads, n, d, dtype=dtype), torch.randn(heads, n, d, dtype=dtype)
    router = make_router(heads, d, dtype)
    whole = torch_layers_score(k, v, router)
    inside = score_cpu.retention_score(k[:, 10:35], v[:, 10:35], router, 10)
    close(inside, score_reference.retention_score(k[:, 10:35], v[:, 10:35], router, 10))
    close(inside, whole[:, 16:29])
    assert torch.equal(
        torch.cat(
            [
                score_cpu.retention_score(k[:, a : a + 17], v[:, a : a + 17], router, a)
                for a in (0, 5, 10)
            ],
            dim=1,
        ),
        score_cpu.retention_score(k[:, :27], v[:, :27], router, 0, block=5),
    )


@pytest.mark.parametrize("score", [score_cpu, score_reference])
def test_retention_score_pads_every_layer_at_the_streams_start(score):
    heads, n, d = 2, 20, 8
    k, v = torch.randn(2, heads, n, d, dtype=torch.float64)
    router = make_router(heads, d, torch.float64)
    garbage = torch.full((heads, 9, d), 7.0, dtype=torch.float64)
    padded = [torch.cat([garbage, x], dim=1) for x in (k, v)]
    actual = score.retention_score(*padded, router, -9)
    close(actual[:, 3:], torch_layers_score(k, v, router)[:, : n - 6])


@pytest.mark.parametrize("dtype", list(TOLERANCE))
def test_rope_turns_pairs_by_relative_positions(dtype):
    x = torch.randn(2, 3, 5, 8, dtype=dtype)
    relative = torch.randint(-1_000_000, 100, (3, 5))
    close(rope_cpu.rope(x, relative, 1e4), rope_reference.rope(x, relative, 1e4))


def test_rope_scores_depend_on_distance_alone():
    q, k = torch.randn(2, 1, 16, dtype=torch.float64)
    near = (
        rope_cpu.rope(q, torch.tensor([3]), 1e4) * rope_cpu.rope(k, torch.tensor([-9]), 1e4)
    ).sum()
    far = (
        rope_cpu.rope(q, torch.tensor([40]), 1e4) * rope_cpu.rope(k, torch.tensor([28]), 1e4)
    ).sum()
    close(near, far)


@given(
    positions=st.sets(st.integers(0, 500), min_size=1, max_size=12),
    more=st.integers(1, 400),
    span=st.integers(40, 200),
)
def test_bounded_positions_keep_order_bound_distance_and_equal_absolute_on_short_streams(
    positions, more, span
):
    position = torch.tensor([sorted(positions)])
    start = max(positions) + more
    bounded = bounded_positions(position, start, span)
    assert (bounded.diff() > 0).all()
    assert (start - bounded <= span).all()
    if start - min(positions) <= span:
        assert torch.equal(bounded, position)


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("n", [1, 8])
def test_sparse_attention_sees_only_the_visible(n, dtype):
    q = torch.randn(2, 3, 2, n, 8, dtype=dtype)
    k, v = torch.randn(2, 2, 3, 20, 8, dtype=dtype)
    visible = torch.rand(2, 3, n, 20) < 0.4
    visible[..., 5] = True
    expected = attention_reference.sparse_attention(q, k, v, visible)
    close(attention_cpu.sparse_attention(q, k, v, visible), expected)


@pytest.mark.parametrize("attention", [attention_cpu, attention_reference])
@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("n", [1, 8])
def test_sparse_attention_takes_what_is_seen_of_earlier_keys_apart(n, dtype, attention):
    q = torch.randn(2, 3, 2, n, 8, dtype=dtype)
    k, v = torch.randn(2, 2, 3, 20, 8, dtype=dtype)
    visible = torch.ones(2, 3, n, 20, dtype=torch.bool)
    visible[..., 14:] = torch.rand(n, 6) < 0.4
    expected = attention.sparse_attention(q, k, v, visible)
    close(attention.sparse_attention(q, k, v, visible[0, 0, :, 14:]), expected)
    visible[..., :14] = torch.rand(2, 3, 1, 14) < 0.5
    visible[..., 5] = True
    expected = attention_reference.sparse_attention(q, k, v, visible)
    actual = attention.sparse_attention(q, k, v, visible[..., 14:], visible[:, :, 0, :14])
    close(actual, expected)


def test_products_of_bf16_numbers_are_exact_and_leave_the_setting_as_it_was():
    before = torch.backends.mkldnn.matmul.fp32_precision
    a, b = (torch.randn(3, 48, 64).to(torch.bfloat16).float() for _ in range(2))
    torch.testing.assert_close(product_of_bf16(a, b.mT), a @ b.mT, atol=1e-4, rtol=1e-5)
    with pytest.raises(RuntimeError):
        product_of_bf16(a, b)
    assert torch.backends.mkldnn.matmul.fp32_precision == before


@st.composite
def evictions(draw):
    """A retained buffer, blocks that leave the window, budgets: with many equal logits."""
    heads, rows = 2, draw(st.integers(1, 7))
    start = draw(st.integers(-6, 40))
    block = draw(st.integers(1, 4))
    n = block * draw(st.integers(1, 5))
    logits = st.sampled_from([-1.0, 0.0, 0.5, 0.5, 1.0, 2.0])
    logit, position = torch.zeros(heads, rows), torch.full((heads, rows), -1)
    sinks = draw(st.integers(0, 5))
    budgets = []
    for head in range(heads):
        budget = draw(st.integers(0, rows))
        older = draw(
            st.sets(st.integers(0, max(start - 1, 0)), max_size=budget if start > 0 else 0)
        )
        for row, at in enumerate(sorted(older)):
            position[head, row] = at
            logit[head, row] = draw(logits if at < sinks else st.sampled_from([0.5, 1.0]))
        budgets.append(budget)
    leaving = torch.tensor([[draw(logits) for _ in range(n)] for _ in range(heads)])
    return logit, position, leaving, start, torch.tensor(budgets), sinks, block


@given(evictions())
@settings(max_examples=200, deadline=None)
def test_sorted_eviction_is_the_online_rule(case):
    actual = update_cpu.retained_update(*case)
    assert torch.equal(actual, update_reference.retained_update(*case))


@given(evictions(), st.data())
@settings(max_examples=100, deadline=None)
def test_eviction_does_not_depend_on_how_the_blocks_are_cut(case, data):
    logit, position, leaving, start, budgets, sinks, block = case
    whole = update_cpu.retained_update(*case)
    each = update_cpu.retained_update(logit, position, leaving, start, budgets, sinks, 1)
    assert torch.equal(whole, each[block - 1 :: block])

    # Go on from what is held after some block, as a later call would.
    done = data.draw(st.integers(1, len(whole)))
    heads, n = leaving.shape
    arriving = torch.arange(start, start + n).expand(heads, n)
    all_logit = torch.cat([torch.zeros(heads, 1), logit, leaving], dim=1)
    all_position = torch.cat([torch.full((heads, 1), -1), position, arriving], dim=1)
    held = whole[done - 1]
    now = all_logit.gather(1, held), all_position.gather(1, held)
    cut = done * block
    if cut == n:
        return
    later = update_cpu.retained_update(*now, leaving[:, cut:], start + cut, budgets, sinks, block)
    rest_position = torch.cat([torch.full((heads, 1), -1), now[1], arriving[:, cut:]], dim=1)
    for number, rows in enumerate(later):
        expected = all_position.gather(1, whole[done + number])
        assert torch.equal(rest_position.gather(1, rows), expected)


@given(evictions(), st.integers(0, 5))
@settings(max_examples=150, deadline=None)
def test_visible_sets_are_the_online_rule_at_each_query(case, extra):
    logit, position, leaving, first_leaving, budgets, sinks, _ = case
    window = leaving.shape[1] + extra
    start = first_leaving + window
    args = (logit, position, leaving, window, start, budgets, sinks)
    actual = visibility_cpu.retained_visibility(*args)
    assert torch.equal(actual, visibility_reference.retained_visibility(*args))
