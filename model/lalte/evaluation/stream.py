"""The tokens of a sample, as a session has them: turn by turn, each framed by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lalte.text import Role, StreamEncoder

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from lalte.evaluation.samples import Question, Told
    from lalte.text import Tokenizer, TurnFormat


class Framing:
    """Writes streams and questions under one tokenizer and turn format."""

    def __init__(self, tokenizer: Tokenizer, turns: TurnFormat) -> None:
        self._tokenizer = tokenizer
        self._encoder = StreamEncoder(tokenizer)
        self._turns = turns

    def stream(self, told: Sequence[Told]) -> list[int]:
        """Tokens of a whole stream."""
        ids = self._turns.start(told[0].role) if told else []
        for turn in told:
            ids += self._turns.open(turn.role) + self._encode(turn.text)
            ids += self._turns.close(turn.role)
        return ids

    def question(self, question: Question, *, started: bool) -> list[int]:
        """Tokens behind the stream, or at its start if nothing was told."""
        role = Role.RAW if question.raw else Role.USER
        start = [] if started else self._turns.start(role)
        if question.raw:
            return start + self._encode(question.text + question.prefix)
        asked = self._turns.open(role) + self._encode(question.text) + self._turns.close(role)
        return start + asked + self._turns.reply_prefix + self._encode(question.prefix)

    def value_positions(self, ids: Sequence[int], value: str) -> list[int]:
        """Positions of the tokens that write the first occurrence of `value` in a stream."""
        parts = [self._tokenizer.token_bytes(token) for token in ids]
        begin = b"".join(parts).index(value.encode())
        end = begin + len(value.encode())
        positions, place = [], 0
        for position, part in enumerate(parts):
            if place < end and place + len(part) > begin:
                positions.append(position)
            place += len(part)
        return positions

    def _encode(self, text: str) -> list[int]:
        return self._encoder.take(b"", text.encode(), final=True).ids


def kept_shares(
    value: Sequence[int], heads: Iterable[tuple[int, Iterable[int], int]]
) -> tuple[tuple[float, ...], ...]:
    """The share of a value's positions that each head still holds, by layer.

    heads: (layer, positions retained, first position in the window), layer by layer.
    """
    shares: dict[int, list[float]] = {}
    for layer, retained, window in heads:
        alive = set(retained)
        found = sum(position in alive or position >= window for position in value)
        shares.setdefault(layer, []).append(found / len(value))
    return tuple(tuple(shares[layer]) for layer in sorted(shares))
