"""Triton kernels without a GPU: they compute what the references define, and they compile."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Triton is for Linux alone")


def run(arguments, **variables):
    """One thread, and a process of its own: Triton reads its variables once, when it loads."""
    done = subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1"} | variables,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.timeout(600)
def test_kernels_compute_what_the_references_define():
    out = run(
        ["-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/kernels/interpreted"],
        TRITON_INTERPRET="1",
    )
    assert int(re.search(r"(\d+) passed", out)[1]) > 50, out
    assert "skipped" not in out, out


@pytest.mark.timeout(900)
def test_every_kernel_compiles_for_ampere_and_hopper_within_their_shared_memory(tmp_path):
    out = run(["bench/compile_kernels.py", "--print-only"], TRITON_CACHE_DIR=str(tmp_path))
    compiled = {tuple(line.split()[i] for i in (0, 1, 6)) for line in out.splitlines()[1:]}
    expected = set()
    for source in (ROOT / "kernels" / "lalte_kernels").glob("*/triton*/**/*.py"):
        expected |= launched(source, source.parents[1].name)
    for source in (ROOT / "kernels" / "lalte_kernels").glob("*/triton.py"):
        expected |= launched(source, source.parent.name)
    assert len(expected) >= 15
    assert compiled == {(gpu, *kernel) for gpu in ("sm_80", "sm_90") for kernel in expected}


def launched(source, op):
    names = re.findall(r"^ +(?:\w+\.)?(\w+)\[\(?", source.read_text(), re.M)
    return {(op, name) for name in names}
