"""Token files: all documents of a corpus as one long array on disk, mapped, not loaded.

A file `NAME.tokens` is a row of little-endian unsigned integers (2 bytes where the vocabulary
allows), one end-of-text id after each document; `NAME.json` beside it says how to read it. A
training sequence is any `length + 1` tokens in a row, document boundaries inside it or not
("packed"), so no token is padding.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from lalte.train.errors import TrainError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

SUFFIX = ".tokens"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class TokenFileFacts:
    """What NAME.json holds. sha256: of NAME.tokens. end_id: what stands after each document."""

    format_version: int
    tokens: int
    documents: int
    bytes_each: int
    vocab_size: int
    end_id: int
    sha256: str


def write_token_file(
    path: Path,
    documents: Iterable[str],
    encode: Callable[[str], Sequence[int]],
    *,
    vocab_size: int,
    end_id: int,
) -> TokenFileFacts:
    """Encode documents into `path` (NAME.tokens), complete or not there at all.

    Raises TrainError for another suffix, for no documents, and where `path` exists.
    """
    if path.suffix != SUFFIX:
        raise TrainError(path, f"must end in {SUFFIX}")
    if path.exists():
        raise TrainError(path, "exists already; remove it or choose another name")
    dtype = np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".draft")
    digest, tokens, count = hashlib.sha256(), 0, 0
    try:
        with draft.open("wb") as out:
            for text in documents:
                data = np.array([*encode(text), end_id], dtype=dtype).tobytes()
                digest.update(data)
                out.write(data)
                tokens += len(data) // dtype.itemsize
                count += 1
        if count == 0:
            raise TrainError(path, "there were no documents to write")
        facts = TokenFileFacts(
            FORMAT_VERSION, tokens, count, dtype.itemsize, vocab_size, end_id, digest.hexdigest()
        )
        path.with_suffix(".json").write_text(json.dumps(asdict(facts), indent=1) + "\n", "utf-8")
        draft.rename(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    return facts


class TokenFile:
    """One token file, open for reading. `facts` is what stands beside it."""

    def __init__(self, path: Path) -> None:
        """Raises TrainError for a file that is missing, cut short or of another format."""
        self.path = path
        beside = path.with_suffix(".json")
        try:
            self.facts = TokenFileFacts(**json.loads(beside.read_text("utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise TrainError(
                beside, f"cannot be read ({error}); make it with `memoryd data tokenize`"
            ) from error
        facts = self.facts
        if facts.format_version != FORMAT_VERSION or facts.bytes_each not in (2, 4):
            raise TrainError(beside, f"has a format that is not {FORMAT_VERSION}: tokenize again")
        size = path.stat().st_size if path.is_file() else 0
        if size != facts.tokens * facts.bytes_each:
            raise TrainError(
                path,
                f"is {size} bytes where {facts.tokens * facts.bytes_each} are promised: it is "
                "missing or cut short; tokenize again",
            )
        self._ids = np.memmap(path, dtype=f"<u{facts.bytes_each}", mode="r")

    def rows(self, first: int, count: int) -> torch.Tensor:
        """Tokens [first, first + count) as int64."""
        return torch.from_numpy(self._ids[first : first + count].astype(np.int64))


class PackedTokens:
    """Sequences over token files, in an order that is a function of (seed, index) alone.

    Every epoch visits each sequence once, shuffled anew. So a run goes on from its step number.
    """

    def __init__(self, files: Sequence[TokenFile], length: int, seed: int) -> None:
        """`length`: tokens that the model reads of each sequence. Raises TrainError."""
        self._files = files
        self._length = length
        self._seed = seed
        # Neighbours share one token: the last target of one is the first input of the next.
        self._per_file = [(file.facts.tokens - 1) // length for file in files]
        self.count = sum(self._per_file)
        if self.count == 0:
            raise TrainError(
                ", ".join(str(file.path) for file in files),
                f"no file holds a sequence of {length + 1} tokens: take a shorter length",
            )
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.int64)

    def batch(self, first: int, rows: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Sequences number first + row for each of `rows`; (inputs, targets), int64 [rows, n]."""
        sequences = torch.stack([self._sequence(first + row) for row in rows])
        return sequences[:, :-1].contiguous(), sequences[:, 1:].contiguous()

    def _sequence(self, index: int) -> torch.Tensor:
        epoch, place = divmod(index, self.count)
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(self._seed * 1_000_003 + epoch)
            self._order = torch.randperm(self.count, generator=generator)
            self._epoch = epoch
        chosen = int(self._order[place])
        for file, count in zip(self._files, self._per_file, strict=True):
            if chosen < count:
                return file.rows(chosen * self._length, self._length + 1)
            chosen -= count
        raise AssertionError("an index beyond all files")
