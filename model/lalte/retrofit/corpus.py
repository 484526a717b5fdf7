"""Ordinary text, read from files that are not part of this repository.

Two xz-compressed files of JSON lines: books (id, title, text) and dialogues (turns: a list of
[speaker, text]). Beside them the text that is there wherever Python and torch are: modules of the
standard library, which are code, and torch's reference manual. Some of each are held out: nothing
is trained or calibrated on them. `pydoc_data`, which the demo streams, is not among them.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import random
import re
import sysconfig
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lalte.retrofit.errors import RetrofitError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

BOOKS_FILE = "books.jsonl.xz"
DIALOGUES_FILE = "dialogues.jsonl.xz"
_MODULES = (
    "argparse.py", "asyncio/base_events.py", "calendar.py", "collections/__init__.py",
    "configparser.py", "contextlib.py", "csv.py", "dataclasses.py", "difflib.py",
    "email/message.py", "enum.py", "fractions.py", "functools.py", "http/client.py", "inspect.py",
    "ipaddress.py", "json/decoder.py", "locale.py", "logging/__init__.py", "mailbox.py",
    "optparse.py", "pathlib.py", "pickle.py", "random.py", "shutil.py", "smtplib.py", "socket.py",
    "statistics.py", "string.py", "subprocess.py", "tarfile.py", "tempfile.py", "textwrap.py",
    "threading.py", "traceback.py", "turtle.py", "typing.py", "unittest/mock.py",
    "urllib/request.py", "zipfile.py",
)  # fmt: skip
_MANUALS = ("_torch_docs.py", "_tensor_docs.py")
# One module in so many is held out, and the last part of each manual.
_HELD_OUT_MODULES = 5
_HELD_OUT_MANUAL = 0.2
# One dialogue in so many is held out.
_HELD_OUT_DIALOGUES = 10
# Books open with title pages and contents, and some close with a licence.
_FRONT, _BACK = 0.02, 0.98

Dialogue = tuple[tuple[str, str], ...]

_SENTENCE_END = re.compile(r"[.!?][\"”’')]*\s+(?=[\"“‘'(]?[A-Z])")


@dataclass(frozen=True)
class Corpus:
    """Books as running text, dialogues as (speaker, text) turns, manuals and code as lines.

    sha256: of the files read.
    """

    books: tuple[str, ...]
    dialogues: tuple[Dialogue, ...]
    references: tuple[str, ...]
    sha256: str

    def passage(self, rng: random.Random, characters: int) -> str:
        """Cut about so many characters out of a random book, from a sentence's start on."""
        book, first = _place(rng, self.books, characters)
        start = _SENTENCE_END.search(book, first)
        begin = start.end() if start else first
        return book[begin : begin + characters]

    def extract(self, rng: random.Random, characters: int) -> str:
        """Cut about so many characters out of a random manual or module, from a line's start on."""
        text, first = _place(rng, self.references, characters)
        begin = text.find("\n", first) + 1
        return text[begin : begin + characters]


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
    references = _references(digest, held_out=held_out)
    return Corpus(
        books=tuple(
            _unwrapped(text[int(len(text) * _FRONT) : int(len(text) * _BACK)]) for text in chosen
        ),
        dialogues=tuple(
            dialogue
            for i, dialogue in enumerate(dialogues)
            if (i % _HELD_OUT_DIALOGUES == 0) == held_out
        ),
        references=references,
        sha256=digest.hexdigest(),
    )


def lines(text: str) -> list[str]:
    """Cut text behind each line; joined, the pieces are it."""
    return text.splitlines(keepends=True)


def sentences(text: str) -> list[str]:
    """Cut text behind each sentence and the white space after it; joined, the pieces are it."""
    cuts = [0, *(match.end() for match in _SENTENCE_END.finditer(text)), len(text)]
    return [text[a:b] for a, b in pairwise(cuts) if a < b]


def _place(rng: random.Random, texts: Sequence[str], characters: int) -> tuple[str, int]:
    """Choose a text, the longer the likelier, and where in it to begin."""
    text = rng.choices(texts, weights=[len(text) for text in texts])[0]
    return text, rng.randrange(max(len(text) - characters - 2000, 1))


def _references(digest: hashlib._Hash, *, held_out: bool) -> tuple[str, ...]:
    library = Path(sysconfig.get_path("stdlib"))
    torch = find_spec("torch")
    if torch is None or torch.origin is None:
        raise RetrofitError(library, "torch is not installed as a package that can be found")
    modules = [(library / name).read_bytes() for name in _MODULES]
    manuals = [(Path(torch.origin).parent / name).read_bytes() for name in _MANUALS]
    for data in (*modules, *manuals):
        digest.update(data)
    texts = [
        data.decode() for i, data in enumerate(modules) if (i % _HELD_OUT_MODULES == 0) == held_out
    ]
    for text in (data.decode() for data in manuals):
        cut = int(len(text) * (1 - _HELD_OUT_MANUAL))
        texts.append(text[cut:] if held_out else text[:cut])
    return tuple(texts)


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
