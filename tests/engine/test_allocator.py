"""Freed memory is used again instead of being asked for anew."""

import platform
import subprocess
import sys

import pytest

BLOCKS, MEGABYTES, ROUNDS, PAGE = 2, 10, 50, 4096
CODE = f"""
import resource, torch
from memoryd.allocator import keep_freed_memory
keep_freed_memory()
def work():
    blocks = [torch.ones({MEGABYTES} << 18) for _ in range({BLOCKS})]
work()
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range({ROUNDS}):
    work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")
def test_a_block_that_was_freed_is_not_asked_of_the_system_again():
    shown = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    pages = ROUNDS * BLOCKS * (MEGABYTES << 20) // PAGE
    assert int(shown.stdout) < pages / 4  # by default nearly all of them
