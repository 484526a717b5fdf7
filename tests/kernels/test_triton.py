"""Triton kernels without a GPU: they compute what the references define, and they compile."""

import os
import re
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "kernels" / "lalte_kernels"

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
    rows = [line.split() for line in out.splitlines()[1:]]
    sources = list(FOLDER.glob("*/triton.py")) + list(FOLDER.glob("*/triton/*.py"))
    kernels = set().union(*(launched(source) for source in sources))
    assert len(kernels) >= 25
    assert {(row[0], row[6]) for row in rows} == set(product(("sm_80", "sm_90"), kernels))
    assert {row[1] for row in rows} == {op_of(source) for source in sources}


def launched(source):
    names = re.findall(r"^ +(?:\w+\.)?(\w+)\[.*\]\($", source.read_text(), re.M)
    return {f"{op_of(source)}.{name}" for name in names}


def op_of(source):
    return source.relative_to(FOLDER).parts[0]
