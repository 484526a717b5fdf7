"""Gradients: of the references by finite differences, of the CPU paths by the references."""

from itertools import pairwise

import pytest
import torch
from torch.autograd import gradcheck
from torch.nn import functional

from agreement import agree
from lalte_kernels.gated_delta_rule import cpu as delta_cpu
from lalte_kernels.gated_delta_rule import reference as delta_reference
from lalte_kernels.null_attention import cpu as null_cpu
from lalte_kernels.null_attention import reference as null_reference
from lalte_kernels.retention_score import Router
from lalte_kernels.retention_score import cpu as score_cpu
from lalte_kernels.retention_score import reference as score_reference
from lalte_kernels.rope import cpu as rope_cpu
from lalte_kernels.rope import reference as rope_reference
from lalte_kernels.short_conv import cpu as conv_cpu
from lalte_kernels.short_conv import reference as conv_reference
from lalte_kernels.sparse_attention import cpu as attention_cpu
from lalte_kernels.sparse_attention import reference as attention_reference


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(20)
    torch.set_num_threads(1)


def delta_inputs(batch, n, heads, d_k, d_v):
    keys = (batch, n, heads, d_k)
    return [
        functional.normalize(torch.randn(keys), dim=-1) * d_k**-0.5,
        functional.normalize(torch.randn(keys), dim=-1),
        torch.randn(batch, n, heads, d_v),
        -torch.rand(batch, n, heads) * 2,
        torch.rand(batch, n, heads),
        torch.randn(batch, heads, d_k, d_v),
    ]


def conv_inputs(n, channels):
    return [torch.randn(2, n, channels), torch.randn(channels, 4), torch.randn(2, 3, channels)]


def attention_inputs(group, n, d, keys):
    return [
        torch.randn(2, 2, group, n, d),
        torch.randn(2, 2, keys, d),
        torch.randn(2, 2, keys, d),
    ]


def mask(n, tail):
    """Each batch row at an offset of its own."""
    offset = torch.arange(2)[:, None, None, None] + torch.arange(n)[:, None]
    return (torch.arange(tail) <= offset).expand(2, 2, n, tail)


def router_of(*tensors):
    return Router(tensors[:3], tensors[3:6], tensors[6], tensors[7], 2)


def score_inputs(heads, d, rows):
    sizes = [2 * d, d, d // 2, d // 4]
    pairs = list(pairwise(sizes))
    return [
        torch.randn(heads, rows, d),
        torch.randn(heads, rows, d),
        *(torch.randn(heads * out, into, 1, 3) * (3 * into) ** -0.5 for into, out in pairs),
        *(torch.randn(heads * out) for _, out in pairs),
        torch.randn(heads, d // 4, 1, 1),
        torch.randn(heads),
    ]


CASES = {
    "gated_delta_rule": (
        delta_reference.gated_delta_rule,
        delta_cpu.gated_delta_rule,
        lambda: delta_inputs(1, 3, 2, 3, 2),
        lambda: delta_inputs(2, 70, 2, 16, 24),
    ),
    "gated_delta_rule, one token": (
        delta_reference.gated_delta_rule,
        delta_cpu.gated_delta_rule,
        lambda: delta_inputs(1, 1, 1, 3, 2),
        lambda: delta_inputs(2, 1, 3, 64, 64),
    ),
    "short_conv": (
        conv_reference.short_conv,
        conv_cpu.short_conv,
        lambda: conv_inputs(2, 3),
        lambda: conv_inputs(20, 6),
    ),
    "sparse_attention": (
        lambda q, k, v: attention_reference.sparse_attention(q, k, v, mask(q.shape[3], 4)),
        lambda q, k, v: attention_cpu.sparse_attention(q, k, v, mask(q.shape[3], 4)),
        lambda: attention_inputs(2, 2, 3, 6),
        lambda: attention_inputs(3, 4, 64, 40),
    ),
    "null_attention": (
        lambda q, k, v, z: null_reference.null_attention(q, k, v, mask(q.shape[3], 5), z),
        lambda q, k, v, z: null_cpu.null_attention(q, k, v, mask(q.shape[3], 5), z),
        lambda: [*attention_inputs(2, 2, 3, 5), torch.randn(2, 2, 2, 2)],
        lambda: [*attention_inputs(3, 4, 16, 5), torch.randn(2, 2, 3, 4)],
    ),
    "rope": (
        lambda x: rope_reference.rope(x, torch.arange(-3, 2), 1e4),
        lambda x: rope_cpu.rope(x, torch.arange(-3, 2), 1e4),
        lambda: [torch.randn(2, 5, 4)],
        lambda: [torch.randn(2, 3, 5, 64)],
    ),
    "retention_score": (
        lambda k, v, *rest: score_reference.retention_score(k, v, router_of(*rest), -2),
        lambda k, v, *rest: score_cpu.retention_score(k, v, router_of(*rest), -2),
        lambda: score_inputs(1, 4, 14),
        lambda: score_inputs(2, 8, 20),
    ),
}


@pytest.mark.parametrize("op", CASES)
def test_the_references_gradient_is_that_of_finite_differences(op):
    reference, _, small, _ = CASES[op]
    assert gradcheck(reference, [x.double().requires_grad_() for x in small()])


@pytest.mark.parametrize("op", CASES)
def test_the_cpu_paths_gradient_is_the_references(op):
    reference, cpu, _, real = CASES[op]
    agree([reference, cpu], real())
