"""Turns generated ids into text as they come, never showing half a character."""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lalte.text.tokenizer import Tokenizer


class StreamDecoder:
    """Incremental detokenizer: holds back the bytes of a UTF-8 sequence until it is whole.

    The concatenation of all that `push` and `flush` return equals `Tokenizer.decode` of the ids.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        """Return the text that `token` completes; "" for special tokens, or inside a character."""
        if token in self._tokenizer.special_ids:
            return ""
        return self._utf8.decode(self._tokenizer.token_bytes(token))

    @property
    def holding(self) -> bool:
        """Whether an unfinished character is held back."""
        return bool(self._utf8.getstate()[0])

    def flush(self) -> str:
        """Return what is left at the end of the stream: U+FFFD for an unfinished character."""
        return self._utf8.decode(b"", final=True)
