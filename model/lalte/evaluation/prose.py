"""Running text of any length for haystacks, from books that nothing was trained on."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

from lalte.retrofit.corpus import sentences

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator

    from lalte.retrofit.corpus import Corpus
    from lalte.text import Tokenizer


def running_sentences(corpus: Corpus, rng: random.Random) -> Iterator[str]:
    """Sentences from a random place of a random book on, then of the next books, without end.

    Longer than all books together, the text repeats itself.
    """
    books = [sentences(book) for book in corpus.books]
    first = rng.choices(range(len(books)), weights=[len(book) for book in books])[0]
    start = rng.randrange(len(books[first]))
    for number in count(first):
        yield from books[number % len(books)][start:]
        start = 0


def passage(corpus: Corpus, tokenizer: Tokenizer, rng: random.Random, tokens: int) -> list[int]:
    """Exactly so many tokens of running text."""
    ids: list[int] = []
    pieces: list[str] = []
    for sentence in running_sentences(corpus, rng):
        pieces.append(sentence)
        # Encoded in stretches: a sentence by itself has other tokens at its borders.
        if len(pieces) == 64 or len(ids) + 4 * len(pieces) >= tokens:
            ids += tokenizer.encode_plain("".join(pieces))
            pieces = []
        if len(ids) >= tokens:
            break
    return ids[:tokens]
