"""What a caller may stream in - text, files, iterables - as one generator of items.

The generators are the client's own: closing one closes a file that was opened here and nothing
that belongs to the caller.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Generator, Iterable
from pathlib import Path
from typing import IO, Any

from memoryd_client import _requests
from memoryd_client._types import Document, Piece, Turn

Item = str | bytes | Piece | Turn | Document
Source = Item | Path | IO[str] | IO[bytes] | Iterable[Item]
AsyncSource = Source | AsyncIterable[Item]


def items(source: Source, block_bytes: int) -> Generator[object, None, None]:
    """The items of a source; files in blocks of at most `block_bytes`."""
    match source:
        case str() | bytes() | Piece() | Turn() | Document():
            yield source
        case Path():
            with source.open("rb") as file:
                yield from items(file, block_bytes)
        case _ if hasattr(source, "read"):
            read = _reader(source)
            while block := read(block_bytes):
                yield block
        case Iterable():
            yield from source
        case _:
            raise _requests.unknown_content(source)


async def async_items(source: AsyncSource, block_bytes: int) -> AsyncGenerator[object, None]:
    """The same for asyncio. Files are read on a thread, so that a slow disk stalls nobody."""
    match source:
        case AsyncIterable():
            async for item in source:
                yield item
        case Path():
            file = await asyncio.to_thread(source.open, "rb")
            with contextlib.closing(file):
                while data := await asyncio.to_thread(file.read, block_bytes):
                    yield data
        case _ if hasattr(source, "read"):
            read = _reader(source)
            while block := await asyncio.to_thread(read, block_bytes):
                yield block
        case _:
            for each in items(source, block_bytes):
                yield each


def nothing() -> Generator[object, None, None]:
    """The source of a call that streams nothing in."""
    yield from ()


async def async_nothing() -> AsyncGenerator[object, None]:
    """The same for asyncio."""
    for item in nothing():
        yield item


def _reader(file: Any) -> Callable[[int], str | bytes]:
    # read1 returns what a pipe holds by now instead of waiting for a full block.
    read: Callable[[int], str | bytes] = getattr(file, "read1", file.read)
    return read
