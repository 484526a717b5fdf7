"""Sizes of tiles in Triton kernels."""

from __future__ import annotations

SMALLEST = 16  # what the tensor cores' products take at least


def block(size: int) -> int:
    """Return the smallest tile side that holds `size`: a power of two, at least 16."""
    return max(SMALLEST, 1 << (size - 1).bit_length())
