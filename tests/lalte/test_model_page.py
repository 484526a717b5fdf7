"""The figures on docs/model.md are the code's."""

import re
from pathlib import Path

import pytest
import torch

from lalte.family import MEMBERS, member
from lalte.state import nbytes

PAGE = (Path(__file__).parents[2] / "docs" / "model.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", MEMBERS)
def test_the_states_bytes(name: str):
    row = re.search(rf"^\| `{re.escape(name)}` \| ([\d,]+) \|(.*)\|$", PAGE, re.MULTILINE)
    assert row is not None
    told = [int(cell.replace(",", "")) for cell in (row[1], *row[2].split("|"))]
    found = []
    for size in ("0.4b", "1.4b"):
        config = member(name, size)
        empty, block = (nbytes(config, torch.bfloat16, n) for n in (0, config.chunk))
        found += [empty, (block - empty) // config.chunk]
    assert told == found


def test_every_file_that_the_page_names_is_there():
    named = re.findall(r"\b(?:model|kernels|tests|docs)/[\w/.]*\w", PAGE)
    assert len(named) > 5
    for path in named:
        assert (Path(__file__).parents[2] / path).exists(), path
