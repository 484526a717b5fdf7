"""Compiles every Triton kernel for NVIDIA GPUs on a machine without one, and says what each takes.

Every op runs forwards and backwards at the shapes of published models, on tensors whose contents do
not matter: a launch compiles its kernel for the target instead of starting it. So what is compiled
is what is launched, with the same specialisations. Registers and spills are of one thread, shared
memory of one program.
"""

import argparse
import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import triton
from results_file import save
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from lalte_kernels.gated_delta_rule import triton as gated_delta_rule
from lalte_kernels.nsa import Sparsity
from lalte_kernels.nsa import triton as nsa
from lalte_kernels.null_attention import triton as null_attention
from lalte_kernels.retained_update import triton as retained_update
from lalte_kernels.retained_visibility import triton as retained_visibility
from lalte_kernels.retention_score import Router
from lalte_kernels.retention_score import triton as retention_score
from lalte_kernels.rope import triton as rope
from lalte_kernels.short_conv import triton as short_conv
from lalte_kernels.sparse_attention import triton as sparse_attention

CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"

SHARED_BYTES = {80: 163 * 1024, 90: 227 * 1024}
"""What one program can have, by compute capability (CUDA C++ Programming Guide)."""


@dataclass(frozen=True)
class Compiled:
    """One kernel, as compiled for one launch. op: whose folder it is in; others may use it too."""

    target: str
    op: str
    shape: str
    kernel: str
    registers: int
    spilled_bytes: int
    shared_bytes: int
    warps: int


class WithoutGPU:
    """The driver of a device that is not there: all that compiling asks of one."""

    def __init__(self, capability: int) -> None:
        self.capability = capability

    def get_current_device(self) -> int:
        return self.capability  # kernels are cached by device

    def get_current_stream(self, _device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)


def grads(*sizes: tuple[int, ...], dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    return [torch.zeros(size, dtype=dtype, requires_grad=True) for size in sizes]


def learn(*outputs: torch.Tensor) -> None:
    """Go the way back as well."""
    torch.autograd.backward(outputs, [torch.zeros_like(x) for x in outputs])


def launches() -> Iterator[tuple[str, str]]:
    """Run every op; give its name and shape just before its kernels are launched."""
    for d in (64, 128, 256):
        yield "gated_delta_rule", f"head {d}, 8 heads, 96 tokens"
        keys, heads, state = (1, 96, 8, d), (1, 96, 8), (1, 8, d, d)
        learn(*gated_delta_rule.gated_delta_rule(*grads(keys, keys, keys, heads, heads, state)))
        yield "gated_delta_rule", f"head {d}, 8 heads, 1 token"
        keys, heads = (1, 1, 8, d), (1, 1, 8)
        with torch.no_grad():
            gated_delta_rule.gated_delta_rule(*grads(keys, keys, keys, heads, heads, state))
    for dtype in (torch.float32, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")
        yield "short_conv", f"{name}, 1024 channels, 4 taps"
        y, _ = short_conv.short_conv(*grads((1, 64, 1024), (1024, 4), (1, 3, 1024), dtype=dtype))
        learn(y)
        for d, group, n in ((64, 3, 64), (128, 4, 64), (256, 1, 64), (64, 3, 1)):
            yield "sparse_attention", f"{name}, head {d}, group {group}, queries {n}"
            rows = (1, 2, 320, d)
            q, k, v = grads((1, 2, group, n, d), rows, rows, dtype=dtype)
            visible = torch.ones(1, 2, n, 64, dtype=torch.bool)
            learn(sparse_attention.sparse_attention(q, k, v, visible))
        yield "rope", f"{name}, head 64"
        (x,) = grads((1, 8, 64, 64), dtype=dtype)
        rope.rope(x, torch.zeros(64, dtype=torch.int64), 1e4)
    yield "retained_update", "512 rows, 256 leaving"
    position = torch.zeros(8, 512, dtype=torch.int64)
    budgets = torch.zeros(8, dtype=torch.int64)
    retained_update.retained_update(
        *(torch.zeros(8, 512), position, torch.zeros(8, 256), 1024, budgets, 4, 64)
    )
    yield from launches_of_fewer_shapes()
    # A size of 1 is compiled in as a constant, so kernels differ where sizes are 1.
    yield "gated_delta_rule", "every size 1"
    row, head, one = (1, 1, 1, 1), (1, 1, 1), (1, 1)
    learn(*gated_delta_rule.gated_delta_rule(*grads(row, row, row, head, head, row)))
    with torch.no_grad():
        gated_delta_rule.gated_delta_rule(*grads(row, row, row, head, head, row))
    yield "short_conv", "every size 1, 2 taps"
    learn(short_conv.short_conv(*grads((1, 1, 1), (1, 2), (1, 1, 1)))[0])
    yield "sparse_attention", "every size 1"
    q, k, v = grads((1, 1, 1, 1, 1), row, row)
    learn(sparse_attention.sparse_attention(q, k, v, torch.ones(row, dtype=torch.bool)))
    yield "null_attention", "every size 1"
    with torch.no_grad():
        null_attention.null_attention(q, k, v, torch.ones(row, dtype=torch.bool), *grads(row))
    yield "nsa", "every size 1"
    start = torch.zeros(1, dtype=torch.int64)
    with torch.no_grad():
        nsa.nsa(q, k, v, k, v, torch.zeros(1, 1, 1, 1, 3), start, Sparsity(1, 3, 1))
    yield "retained_update", "every size 1"
    position, budgets = torch.zeros(one, dtype=torch.int64), torch.ones(1, dtype=torch.int64)
    retained_update.retained_update(torch.zeros(one), position, torch.zeros(one), 1, budgets, 1, 1)
    yield "retained_visibility", "every size 1"
    retained_visibility.retained_visibility(
        *(torch.zeros(one), position, torch.zeros(one), 1, 1, budgets, 1)
    )


def launches_of_fewer_shapes() -> Iterator[tuple[str, str]]:
    """As `launches`, for ops whose kernels differ less from shape to shape, or are shared."""
    start = torch.zeros(1, dtype=torch.int64)
    half = torch.bfloat16
    for dtype, d, group in ((torch.float32, 64, 3), (half, 128, 4), (half, 256, 1)):
        shape = f"{str(dtype).removeprefix('torch.')}, head {d}, group {group}, queries 64"
        q, k, v = grads((1, 2, group, 64, d), (1, 2, 320, d), (1, 2, 320, d), dtype=dtype)
        yield "nsa", shape
        blocks = (1, 2, 5, d)
        pooled_k, pooled_v, gates = grads(blocks, blocks, (1, 2, group, 64, 3), dtype=dtype)
        learn(nsa.nsa(q, k, v, pooled_k, pooled_v, gates, start, Sparsity(64, 16, 512)))
        yield "null_attention", shape  # backwards it is sparse attention
        visible, (logit,) = torch.ones(1, 2, 64, 320, dtype=torch.bool), grads((1, 2, group, 64))
        with torch.no_grad():
            null_attention.null_attention(q, k, v, visible, logit)
    yield "nsa", "bfloat16, head 64, group 4, 1 query, room for a million tokens"
    q, gates = (torch.zeros(1, 1, 4, 1, size, dtype=half) for size in (64, 3))
    rows, pooled = (q[:, :, 0].expand(1, 1, count, 64) for count in (2**20, 2**14))
    nsa.nsa(q, rows, rows, pooled, pooled, gates, start, Sparsity(64, 16, 512))
    for dtype, d in ((torch.float32, 256), (half, 64)):
        yield "retention_score", f"{str(dtype).removeprefix('torch.')}, head {d}, 64 tokens"
        sizes = list(pairwise((2 * d, d, d // 2, d // 4)))
        weights = grads(*((2 * out, into, 1, 3) for into, out in sizes), dtype=dtype)
        biases = grads(*((2 * out,) for _, out in sizes), dtype=dtype)
        projection, bias = grads((2, d // 4, 1, 1), (2,), dtype=dtype)
        router = Router(tuple(weights), tuple(biases), projection, bias, dilation=2)
        k, v = grads((2, 76, d), (2, 76, d), dtype=dtype)
        learn(retention_score.retention_score(k, v, router, 0, 64))
    yield "retained_visibility", "512 rows, window of 256, 64 queries"
    position, budgets = torch.zeros(8, 512, dtype=torch.int64), torch.zeros(8, dtype=torch.int64)
    retained_visibility.retained_visibility(
        *(torch.zeros(8, 512), position, torch.zeros(8, 64), 256, 1024, budgets, 4)
    )


def compile_all(capability: int) -> list[Compiled]:
    """Compile what the launches of all ops need for GPUs of one compute capability."""
    driver.set_active(WithoutGPU(capability))
    found: list[Compiled] = []
    op, shape = "", ""

    def compile_only(
        kernel: Any,
        *args: Any,
        grid: Any,
        warmup: bool,  # noqa: ARG001
        **options: Any,
    ) -> None:
        built = launch(kernel, *args, grid=grid, warmup=True, **options)
        registers, spilled = resources(built.asm["cubin"])
        found.append(
            Compiled(
                target=f"sm_{capability}",
                op=op,
                shape=shape,
                kernel=f"{kernel.__module__.split('.')[1]}.{kernel.__name__}",
                registers=registers,
                spilled_bytes=spilled,
                shared_bytes=built.metadata.shared,
                warps=built.metadata.num_warps,
            )
        )

    launch = JITFunction.run
    JITFunction.run = compile_only
    try:
        for op, shape in launches():  # noqa: B007 - read by compile_only
            pass
    finally:
        JITFunction.run = launch
    return found


def resources(binary: bytes) -> tuple[int, int]:
    """Return registers and bytes of local memory (spills) of a thread, from the machine code."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        text = subprocess.run(
            [CUOBJDUMP, "--dump-resource-usage", file.name],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+) .*LOCAL:(\d+)", text)
    if found is None:
        raise RuntimeError(f"cuobjdump says nothing of registers; it says: {text}")
    return int(found[1]), int(found[2]) + int(found[3])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--targets", type=int, nargs="+", default=[80, 90], metavar="CAPABILITY")
    parser.add_argument("--print-only", action="store_true", help="write no file of results")
    arguments = parser.parse_args()
    print(f"target {'op':19} registers spilled shared warps {'kernel':34} shape")
    everything = []
    for capability in arguments.targets:
        for one in compile_all(capability):
            everything.append(one)
            print(
                f"{one.target:6} {one.op:19} {one.registers:9} {one.spilled_bytes:7} "
                f"{one.shared_bytes:6} {one.warps:5} {one.kernel:34} {one.shape}"
            )
            if one.shared_bytes > SHARED_BYTES[capability]:
                raise SystemExit(f"{one.kernel} needs more shared memory than {one.target} has")
    if not arguments.print_only:
        figures = {"triton": triton.__version__, "kernels": [asdict(one) for one in everything]}
        save("compile_kernels", figures)


if __name__ == "__main__":
    main()
