"""What one generation has drawn so far, and when it is finished."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from memoryd.engine.messages import Finished, Started, Token

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memoryd.engine.messages import GenerateRequest, GenerationEvent, Sampling


@dataclass(frozen=True)
class Draw:
    """How to draw one token.

    history: tokens that the repetition penalty looks at.
    position: index of the token in the reply; with the seed it decides the random number.
    """

    sampling: Sampling
    history: Sequence[int]
    position: int


class Reply:
    """The growing reply of one generation. Times are seconds of one monotonic clock."""

    def __init__(self, request: GenerateRequest, arrived: float) -> None:
        self._request = request
        self._arrived = arrived
        self._copied = arrived
        self._first_drawn: float | None = None
        self._history = [*request.prompt, *request.drawn]
        self._length = len(request.drawn)
        self.finished = False

    @property
    def is_full(self) -> bool:
        return self._length >= self._request.sampling.max_tokens

    @property
    def last_token(self) -> int:
        """The token that the next decode step reads."""
        return self._history[-1]

    @property
    def next_draw(self) -> Draw:
        return Draw(self._request.sampling, self._history, self._length)

    def start(self, memory_tokens: int, prompt_tokens: int, now: float) -> Started:
        self._copied = now
        return Started(memory_tokens, prompt_tokens, now - self._arrived)

    def accept(self, token: int, now: float) -> list[GenerationEvent]:
        """Takes a drawn token; the events it makes. The stop token itself makes no Token."""
        if self._first_drawn is None:
            self._first_drawn = now
        if token in self._request.stop_ids:
            return [self.finish("stop", now)]
        self._history.append(token)
        self._length += 1
        return [Token(token), self.finish("length", now)] if self.is_full else [Token(token)]

    def finish(self, reason: Literal["stop", "length"], now: float) -> Finished:
        self.finished = True
        first = now if self._first_drawn is None else self._first_drawn
        return Finished(reason, first - self._copied, now - first)
