"""Triton kernels on the CPU, in the interpreter that must be chosen before Triton is imported.

`test_triton.py` runs this folder in a process of its own; by hand:
TRITON_INTERPRET=1 python -m pytest tests/kernels/interpreted
"""

import os

import pytest
import torch

collect_ignore_glob = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["test_*.py"]


@pytest.fixture(autouse=True)
def one_thread_and_a_seed():
    torch.manual_seed(20)
    torch.set_num_threads(1)
