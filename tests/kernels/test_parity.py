"""The ops compute what code that we did not write computes; 1e-4 in fp32, 3e-2 in bfloat16."""

import inspect
import warnings
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers.models.qwen3_next import modeling_qwen3_next as qwen

from lalte_kernels import Router
from lalte_kernels.gated_delta_rule import cpu as delta_cpu
from lalte_kernels.gated_delta_rule import reference as delta_reference
from lalte_kernels.retention_score import cpu as score_cpu
from lalte_kernels.retention_score import reference as score_reference
from lalte_kernels.short_conv import cpu as conv_cpu
from lalte_kernels.short_conv import reference as conv_reference

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 3e-2}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(20)
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def naive():
    """flash-linear-attention's functions in plain torch."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that there is no GPU
        from fla.ops.gated_delta_rule import naive
    return naive


def close(actual, expected):
    tolerance = TOLERANCE[actual.dtype]
    torch.testing.assert_close(
        actual, expected, atol=tolerance, rtol=tolerance, check_dtype=actual.dtype == expected.dtype
    )


def delta_inputs(batch, n, heads, d_k, d_v):
    keys = (batch, n, heads, d_k)
    return (
        functional.normalize(torch.randn(keys), dim=-1) * d_k**-0.5,
        functional.normalize(torch.randn(keys), dim=-1),
        torch.randn(batch, n, heads, d_v),
        -torch.rand(batch, n, heads) * 2,
        torch.rand(batch, n, heads),
        torch.randn(batch, heads, d_k, d_v),
    )


SHAPES = [(2, 1, 3, 64, 64), (2, 70, 3, 64, 32), (1, 130, 2, 128, 128), (1, 40, 1, 256, 256)]


@pytest.mark.parametrize("ours", [delta_cpu, delta_reference])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_delta_rule_is_that_of_flash_linear_attention(naive, ours, shape):
    q, k, v, g, beta, state = delta_inputs(*shape)
    output, after = ours.gated_delta_rule(q, k, v, g, beta, state)
    options = {"scale": 1.0, "initial_state": state, "output_final_state": True}
    for theirs in (naive.naive_recurrent_gated_delta_rule, naive.naive_chunk_gated_delta_rule):
        expected, expected_after = theirs(q=q, k=k, v=v, g=g, beta=beta, **options)
        close(output, expected)
        close(after, expected_after)


@pytest.mark.parametrize("n", [3, 40])
def test_flash_linear_attentions_kernels_are_called_by_their_signatures(naive, monkeypatch, n):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from lalte_kernels.gated_delta_rule import fla

    def plain(name, function):
        bind = inspect.signature(getattr(fla, name)).bind

        def run(**arguments):
            bind(**arguments)
            return function(**arguments)

        monkeypatch.setattr(fla, name, run)

    plain("chunk_gated_delta_rule", naive.naive_chunk_gated_delta_rule)
    plain("fused_recurrent_gated_delta_rule", naive.naive_recurrent_gated_delta_rule)
    given = delta_inputs(2, n, 2, 16, 24)
    for actual, expected in zip(
        fla.gated_delta_rule(*given), delta_reference.gated_delta_rule(*given), strict=True
    ):
        close(actual, expected)


def test_flash_linear_attentions_convolution_goes_on_from_our_tail(monkeypatch):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from lalte_kernels.short_conv import fla

    signature = inspect.signature(fla.causal_conv1d)

    def plain(*arguments, **options):
        """As its documentation has it: initial_state is [batch, channels, kernel], oldest first."""
        given = signature.bind(*arguments, **options).arguments
        assert given["activation"] == "silu"
        x, weight, state = given["x"], given["weight"], given["initial_state"]
        assert state.shape == (x.shape[0], *weight.shape)
        whole = torch.cat([state[..., 1:], x.mT], dim=-1)
        return functional.silu(
            functional.conv1d(whole, weight[:, None], groups=weight.shape[0])
        ).mT, None

    monkeypatch.setattr(fla, "causal_conv1d", plain)
    for n in (1, 2, 9):
        given = torch.randn(2, n, 6), torch.randn(6, 4), torch.randn(2, 3, 6)
        output, after = fla.short_conv(*given)
        expected, expected_after = conv_reference.short_conv(*given)
        close(output, expected)
        assert torch.equal(after, expected_after)


@pytest.mark.parametrize("ours", [delta_cpu, delta_reference])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_delta_rule_is_that_of_qwen3_next(ours, shape):
    q, k, v, g, beta, state = delta_inputs(*shape)
    output, after = ours.gated_delta_rule(q, k, v, g, beta, state)
    options = {"initial_state": state, "output_final_state": True}
    for theirs in (qwen.torch_recurrent_gated_delta_rule, qwen.torch_chunk_gated_delta_rule):
        # Theirs scales queries itself.
        expected, expected_after = theirs(q * shape[3] ** 0.5, k, v, g=g, beta=beta, **options)
        close(output, expected)
        close(after, expected_after)


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("ours", [conv_cpu, conv_reference])
@pytest.mark.parametrize("n", [1, 2, 50])
def test_the_short_convolution_is_torchs(ours, n, dtype):
    x, tail = torch.randn(2, n, 24).to(dtype), torch.randn(2, 3, 24).to(dtype)
    weight = torch.randn(24, 4).to(dtype)
    output, after = ours.short_conv(x, weight, tail)
    whole = torch.cat([tail, x], dim=1)
    sums = functional.conv1d(whole.mT.float(), weight.float()[:, None], groups=24)
    close(output, functional.silu(sums).mT.to(dtype))
    assert torch.equal(after, whole[:, -3:])


def paper_router(heads, d):
    """The router of arXiv 2510.20787: kernels 3, dilation 2, 2d -> d -> d/2 -> d/4 -> 1 a head.

    Over images of one row: heads' channels one after the other, tokens along the width.
    """
    sizes = [2 * d, d, d // 2, d // 4]
    layers: list[nn.Module] = []
    for into, out in pairwise(sizes):
        layers += [
            nn.Conv2d(
                *(heads * into, heads * out, (1, 3)),
                padding=(0, 2),
                dilation=(1, 2),
                groups=heads,
            ),
            nn.SiLU(),
        ]
    layers.append(nn.Conv2d(heads * sizes[-1], heads, 1, groups=heads))
    return nn.Sequential(*layers)


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("ours", [score_cpu, score_reference])
@pytest.mark.parametrize(("heads", "d"), [(3, 16), (1, 64)])
def test_the_router_is_a_stack_of_plain_conv2d_layers(ours, heads, d, dtype):
    n, reach = 30, 6
    network = paper_router(heads, d).to(dtype)
    k, v = torch.randn(2, heads, n, d).to(dtype)
    convolutions = [layer for layer in network if isinstance(layer, nn.Conv2d)]
    router = Router(
        tuple(layer.weight for layer in convolutions[:-1]),
        tuple(layer.bias for layer in convolutions[:-1]),
        convolutions[-1].weight,
        convolutions[-1].bias,
        2,
    )
    with torch.no_grad():
        # [k; v] of each head as channels of an image of one row.
        image = torch.cat([k, v], dim=-1).mT.reshape(1, 2 * d * heads, 1, n).float()
        expected = network.float()(image)[0, :, 0]
        # The padding before the stream is ours to give; behind it we give the same zeros, but
        # layers do not clear there, so the last scores are left out.
        padded = [functional.pad(x, (0, 0, reach, 0)) for x in (k, v)]
        actual = ours.retention_score(*padded, router, -reach)
    assert actual.dtype == torch.float32
    close(actual, expected[:, : n - reach])
