"""Ordinary text, read from files that are not part of this repository.

Two xz-compressed files of JSON lines: books (id, title, text) and dialogues (turns: a list of
[speaker, text]). Some books and dialogues are held out: nothing is trained or calibrated on them.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import random
import re
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from lalte.retrofit.errors import RetrofitError

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

BOOKS_FILE = "books.jsonl.xz"
DIALOGUES_FILE = "dialogues.jsonl.xz"
# One dialogue in so many is held out.
_HELD_OUT_DIALOGUES = 10
# Books open with title pages and contents, and some close with a licence.
_FRONT, _BACK = 0.02, 0.98

Dialogue = tuple[tuple[str, str], ...]

_SENTENCE_END = re.compile(r"[.!?][\"”’')]*\s+(?=[\"“‘'(]?[A-Z])")


@dataclass(frozen=True)
class Corpus:
    """Books as running text, dialogues as (speaker, text) turns; sha256 of the files read."""

    books: tuple[str, ...]
    dialogues: tuple[Dialogue, ...]
    sha256: str

    def passage(self, rng: random.Random, characters: int) -> str:
        """Cut about so many characters out of a random book, from a sentence's start on."""
        book = rng.choices(self.books, weights=[len(book) for book in self.books])[0]
        first = rng.randrange(max(len(book) - characters - 2000, 1))
        start = _SENTENCE_END.search(book, first)
        begin = start.end() if start else first
        return book[begin : begin + characters]


def read_corpus(folder: Path, held_out_books: Collection[str], *, held_out: bool) -> Corpus:
    """Read the training part of the corpus, or with `held_out` the rest.

    held_out_books: ids of whole books. Raises RetrofitError where a file is missing or a book is.
    """
    digest = hashlib.sha256()
    books = {str(row["id"]): str(row["text"]) for row in _rows(folder / BOOKS_FILE, digest)}
    unknown = set(held_out_books) - set(books)
    if unknown:
        raise RetrofitError(folder / BOOKS_FILE, f"has no books {sorted(unknown)} to hold out")
    chosen = [text for name, text in books.items() if (name in held_out_books) == held_out]
    dialogues = [
        tuple((str(speaker), str(text)) for speaker, text in row["turns"])
        for row in _rows(folder / DIALOGUES_FILE, digest)
    ]
    return Corpus(
        books=tuple(
            _unwrapped(text[int(len(text) * _FRONT) : int(len(text) * _BACK)]) for text in chosen
        ),
        dialogues=tuple(
            dialogue
            for i, dialogue in enumerate(dialogues)
            if (i % _HELD_OUT_DIALOGUES == 0) == held_out
        ),
        sha256=digest.hexdigest(),
    )


def sentences(text: str) -> list[str]:
    """Cut text behind each sentence and the white space after it; joined, the pieces are it."""
    cuts = [0, *(match.end() for match in _SENTENCE_END.finditer(text)), len(text)]
    return [text[a:b] for a, b in pairwise(cuts) if a < b]


def _rows(path: Path, digest: hashlib._Hash) -> list[dict[str, Any]]:
    if not path.is_file():
        raise RetrofitError(path, "does not exist; point `data` at the folder that holds it")
    data = path.read_bytes()
    digest.update(data)
    return [json.loads(line) for line in lzma.decompress(data).decode().splitlines()]


def _unwrapped(text: str) -> str:
    """Join lines that were wrapped for print; paragraphs stay apart."""
    paragraphs = re.split(r"\n\s*\n", text)
    return "\n\n".join(" ".join(p.split()) for p in paragraphs if p.strip())
