"""From the ids of a reply to the text a caller sees, and what a caller is told on the way."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from lalte.text import StopStrings, StreamDecoder, Tokenizer

FinishReason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True)
class Progress:
    """The model has read `absorbed` of the `target` tokens that the call waits for."""

    absorbed: int
    target: int


@dataclass(frozen=True)
class Delta:
    """The next whole characters of a reply, and the ids that completed them."""

    text: str
    token_ids: tuple[int, ...]


@dataclass(frozen=True)
class Completion:
    """The end of a reply. Times in seconds.

    offset: where the stream stood; memory_tokens: how much of it the reply could see.
    """

    finish_reason: FinishReason
    offset: int
    generation: str
    seed: int
    memory_tokens: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    wait_seconds: float = 0.0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    stale: bool = False
    replayed: bool = False


ReplyEvent = Progress | Delta | Completion


@dataclass
class ReplyText:
    """Decodes ids, stops before the first stop string, and never shows half a character.

    Text and ids wait until `take` finds that they belong together: nothing of the ids taken is
    held back, so a reply can be journaled exactly as far as it was shown.
    """

    tokenizer: Tokenizer
    stops: Sequence[str]
    _ids: list[int] = field(default_factory=list)
    _text: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._decoder = StreamDecoder(self.tokenizer)
        self._stops = StopStrings(self.stops)

    @property
    def stopped(self) -> bool:
        """A stop string came: what follows is not wanted."""
        return self._stops.stopped

    @property
    def settled(self) -> bool:
        """All ids pushed are shown in the text that `take` gives."""
        return not (self._decoder.holding or self._stops.holding or self.stopped)

    @property
    def waiting(self) -> int:
        """Ids pushed since the last `take`."""
        return len(self._ids)

    def push(self, token: int) -> None:
        self._ids.append(token)
        self._text.append(self._stops.push(self._decoder.push(token)))

    def finish(self) -> None:
        """No more ids come: what is held back and is no stop string is text."""
        self._text += (self._stops.push(self._decoder.flush()), self._stops.flush())

    def take(self) -> Delta:
        """What came since the last call."""
        delta = Delta("".join(self._text), tuple(self._ids))
        self._ids.clear()
        self._text.clear()
        return delta
