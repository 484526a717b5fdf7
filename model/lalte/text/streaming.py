"""Tokenises a stream so that its ids are a function of its bytes, never of how it was cut.

A *safe boundary* stands before a blank (space, tab, CR, LF) whose previous character is no
whitespace. GPT-2-like pre-tokenizers always start a piece there and never look back across it, and
no token of a SentencePiece vocabulary reaches across it. So the text between two boundaries, a
*run*, is encoded by itself. A run that grows past RUN_LIMIT bytes is cut at RUN_LIMIT from its own
start. What follows the last boundary is the *tail*: accepted, not yet tokenised, and stored by
whoever owns the stream.
"""

from __future__ import annotations

import codecs
import itertools
import re
from typing import TYPE_CHECKING, NamedTuple

from lalte.text.errors import InvalidUtf8, TokenizerError

if TYPE_CHECKING:
    from lalte.text.tokenizer import Tokenizer

RUN_LIMIT = 1024
"""The most bytes a run may have before it is cut; a tail is always shorter than this."""

BLANKS = " \t\r\n"


class Taken(NamedTuple):
    """What `StreamEncoder.take` made of a piece: the ids it settled, and the new tail."""

    ids: list[int]
    tail: bytes


class StreamEncoder:
    """Encodes a stream piece by piece. Holds no stream's state: `take` is a pure function."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        blanks = "".join(blank for blank in BLANKS if tokenizer.starts_a_piece(blank))
        if not blanks:
            raise TokenizerError(
                "tokens reach across every kind of blank: text cannot be encoded as it comes"
            )
        # `\S` in a Python str pattern means "not str.isspace()", a superset of White_Space.
        self._boundary = re.compile(rf"(?<=\S)[{re.escape(blanks)}]")

    def take(self, tail: bytes, data: bytes, final: bool) -> Taken:
        """Add `data` to a stream whose unsettled bytes are `tail`.

        With `final` (the turn or document ends) everything is settled and the tail is empty.
        Raises InvalidUtf8, also for an incomplete sequence at a final end.
        """
        buffer = tail + data
        try:
            text, used = codecs.utf_8_decode(buffer, "strict", final)
        except UnicodeDecodeError as error:
            raise InvalidUtf8(error.start - len(tail), error.reason) from None
        cuts = [0, *(match.start() for match in self._boundary.finditer(text))]
        runs = [text[a:b] for a, b in itertools.pairwise(cuts)]
        ids: list[int] = []
        for run in runs:
            self._encode_closed(run.encode(), ids)
        last = text[cuts[-1] :].encode() + buffer[used:]
        if final:
            self._encode_closed(last, ids)
            return Taken(ids, b"")
        while len(last) >= RUN_LIMIT:
            last = self._encode_first(last, ids)
        return Taken(ids, last)

    def _encode_closed(self, run: bytes, ids: list[int]) -> None:
        while len(run) > RUN_LIMIT:
            run = self._encode_first(run, ids)
        ids.extend(self._tokenizer.encode_plain(run.decode()))

    def _encode_first(self, run: bytes, ids: list[int]) -> bytes:
        """Encode RUN_LIMIT bytes of `run`, less an incomplete character; return the rest."""
        text, used = codecs.utf_8_decode(run[:RUN_LIMIT], "strict", False)
        ids.extend(self._tokenizer.encode_plain(text))
        return run[used:]
