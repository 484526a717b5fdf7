"""The owner's memory of journal entries that no committed checkpoint covers yet.

Redis can lose acknowledged writes (a failover, a power cut under `everysec`). Until a checkpoint
covers an entry, its owner can write it again.
"""

from array import array
from collections.abc import Sequence


class RecentTokens:
    """Tokens [start, end) of a stream."""

    def __init__(self, start: int) -> None:
        self._start = start
        self._tokens = array("I")

    @property
    def start(self) -> int:
        return self._start

    @property
    def end(self) -> int:
        return self._start + len(self._tokens)

    def extend(self, tokens: Sequence[int]) -> None:
        self._tokens.extend(tokens)

    def since(self, offset: int) -> list[int] | None:
        """Tokens [offset, end), or None where they are no longer known."""
        if not self._start <= offset <= self.end:
            return None
        return self._tokens[offset - self._start :].tolist()

    def forget_before(self, offset: int) -> None:
        """Drops what a checkpoint at `offset` covers."""
        if offset > self._start:
            del self._tokens[: offset - self._start]
            self._start = offset
