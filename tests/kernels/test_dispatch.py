"""An op runs where it should, and says why it runs there."""

import logging
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import lalte_kernels
from lalte_kernels import (
    Router,
    dispatch,
    null_attention,
    retained_update,
    retained_visibility,
    retention_score,
)
from lalte_kernels.choices import choices
from lalte_kernels.dispatch import Op
from lalte_kernels.nsa import pool_blocks

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture
def gpu(monkeypatch):
    """A GPU and libraries as a test gives them: modules of the op, by name."""
    modules = {}
    monkeypatch.setattr(dispatch, "installed", lambda kind: kind in modules)
    monkeypatch.setattr(dispatch, "import_module", lambda name: modules[name.split(".")[-1]])
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext(device))
    dispatch._say.cache_clear()
    yield modules
    dispatch._say.cache_clear()


def module(name, refused=None):
    return SimpleNamespace(double=lambda x: (name, 2 * x), refusal=lambda x: refused)


def op(**options):
    return Op("double", lambda x: ("reference", 2 * x), lambda x: ("cpu", 2 * x), **options)


def test_tensors_on_a_cpu_take_the_cpu_path(gpu):
    gpu["triton"] = module("triton")
    assert op(gpu=("triton",)).run(CPU, 2) == ("cpu", 4)
    assert op(gpu=("triton",)).choice("cpu").reason == "tensors on cpu"


def test_a_gpu_takes_the_first_of_the_ops_modules_that_is_installed(gpu):
    gpu["triton"] = module("triton")
    double = op(gpu=("fla", "triton"))
    assert double.run(GPU, 2) == ("triton", 4)
    assert double.choice("cuda").reason == "flash-linear-attention is not installed"
    gpu["fla"] = module("fla")
    assert double.run(GPU, 2) == ("fla", 4)
    assert double.choice("cuda").implementation == "fla"


def test_a_refusal_leads_on_and_is_told_once(gpu, caplog):
    gpu.update(fla=module("fla", "it does not do even numbers"), triton=module("triton"))
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            assert op(gpu=("fla", "triton")).run(GPU, 2) == ("triton", 4)
    assert [record.getMessage() for record in caplog.records] == [
        "double on cuda runs triton: fla refused: it does not do even numbers"
    ]


def test_an_error_in_a_kernel_is_no_refusal(gpu):
    def broken(x):
        raise ValueError("the kernel is broken")

    gpu["triton"] = SimpleNamespace(double=broken, refusal=lambda x: None)
    with pytest.raises(ValueError, match="the kernel is broken"):
        op(gpu=("triton",), portable=True).run(GPU, 2)


def test_without_kernels_plain_torch_runs_and_else_the_reference_with_a_warning(gpu, caplog):
    with caplog.at_level(logging.INFO):
        assert op(portable=True).run(GPU, 2) == ("cpu", 4)
        assert op(gpu=("fla", "triton")).run(GPU, 2) == ("reference", 4)
        assert op(gpu=("triton",)).run(torch.device("xpu"), 2) == ("reference", 4)
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("INFO", "double on cuda runs torch: it has no kernel for cuda"),
        (
            "WARNING",
            "double on cuda runs reference: neither of flash-linear-attention, triton is installed",
        ),
        ("WARNING", "double on xpu runs reference: it has no kernel for xpu"),
    ]


def test_every_op_of_the_package_is_among_the_choices():
    package = Path(lalte_kernels.__file__).parent
    folders = {path.parent.name for path in package.glob("*/reference.py")}
    assert {choice.op for choice in choices("cpu")} == folders
    for choice in choices("cuda"):
        assert choice.implementation in {"fla", "triton", "torch"}, choice


# The meta device computes shapes only, and like a GPU it takes no tensors of the CPU. NSA is left
# out: it reads how long its streams are.
def test_what_is_said_to_be_portable_leaves_its_tensors_where_they_are():
    sizes = [(32, 16), (16, 8), (8, 4)]
    router = Router(
        tuple(meta(2 * out, into, 1, 3) for into, out in sizes),
        tuple(meta(2 * out) for _, out in sizes),
        meta(2, 4, 1, 1),
        meta(2),
        2,
    )
    scores = retention_score(*meta(2, 2, 20, 16), router, -3)
    q, keys, positions = meta(1, 2, 3, 4, 16), meta(1, 2, 20, 16), meta(2, 5).long()
    mixed = null_attention(q, keys, keys, meta(1, 2, 4, 20).bool(), meta(1, 2, 3, 4))
    seen = retained_visibility(meta(2, 5), positions, meta(2, 4), 6, 9, meta(2).long(), 1)
    held = retained_update(meta(2, 5), positions, meta(2, 6), 9, meta(2).long(), 1, 3)
    pooled = pool_blocks(keys, 4)
    assert (scores.shape, mixed.shape) == ((2, 8), q.shape)
    assert (seen.shape, held.shape) == ((2, 4, 11), (2, 2, 5))
    assert {x.device.type for x in (scores, seen, mixed, held, pooled)} == {"meta"}


def meta(*shape):
    return torch.empty(shape, device="meta")
