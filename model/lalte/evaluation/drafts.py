"""A greedy reply as it is written, and when it ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lalte.evaluation.samples import Reply

if TYPE_CHECKING:
    from lalte.evaluation.samples import Question
    from lalte.text import Tokenizer


class Draft:
    """One reply. It ends at a stop id or text, at its longest, or when an answer is in it."""

    def __init__(
        self, number: int, question: Question, tokenizer: Tokenizer, stop_ids: frozenset[int]
    ) -> None:
        self.number = number
        self._question = question
        self._tokenizer = tokenizer
        self._stop_ids = stop_ids
        self._ids: list[int] = []
        self._text = ""

    @property
    def last(self) -> int:
        return self._ids[-1]

    def push(self, token: int) -> bool:
        """Take the next token; says whether more are wanted."""
        if token in self._stop_ids:
            return False
        self._ids.append(token)
        text = self._tokenizer.decode(self._ids)
        cuts = [text.index(stop) for stop in self._question.stop if stop in text]
        self._text = text[: min(cuts)] if cuts else text
        ended = cuts or len(self._ids) >= self._question.max_tokens
        return not (ended or self._question.is_right(self._text))

    def reply(self, tokens: int, kept: tuple[tuple[float, ...], ...] | None = None) -> Reply:
        return Reply(self._text, tuple(self._ids), tokens, kept)
