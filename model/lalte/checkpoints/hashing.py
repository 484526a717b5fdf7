"""Hashes of files: sha256 names what was downloaded, xxh3-128 notices what was altered."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import xxhash

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

_BLOCK = 1 << 20


def sha256_hex(paths: Iterable[Path]) -> str:
    """Hash the contents of `paths`, one after the other."""
    digest = hashlib.sha256()
    for path in paths:
        for block in _blocks(path):
            digest.update(block)
    return digest.hexdigest()


def xxh3_hex(path: Path) -> str:
    """xxh3-128 of a file's content."""
    digest = xxhash.xxh3_128()
    for block in _blocks(path):
        digest.update(block)
    return str(digest.hexdigest())


def xxh3_hex_of(data: bytes) -> str:
    """xxh3-128 of some bytes."""
    return str(xxhash.xxh3_128_hexdigest(data))


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            yield block
