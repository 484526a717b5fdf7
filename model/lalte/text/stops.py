"""Stop strings in a stream of text."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class StopStrings:
    """Passes text through until the first stop string, which is left out with all that follows.

    The first is the one that is complete first, so that the result does not depend on how the text
    was cut. Text that may still become a stop string is held back; nothing sent is taken back.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        if any(not stop for stop in stops):
            raise ValueError("a stop string must not be empty")
        self._stops = tuple(stops)
        self._held = ""
        self.stopped = False

    def push(self, text: str) -> str:
        """Add text; returns what may be sent. Sets `stopped` once a stop string is complete."""
        if self.stopped:
            return ""
        self._held += text
        found = [(at + len(stop), at) for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            _, at = min(found)
            self.stopped = True
            sendable, self._held = self._held[:at], ""
            return sendable
        keep = max((self._partial(stop) for stop in self._stops), default=0)
        at = len(self._held) - keep
        sendable, self._held = self._held[:at], self._held[at:]
        return sendable

    @property
    def holding(self) -> bool:
        """Whether text is held back that may become a stop string."""
        return bool(self._held)

    def flush(self) -> str:
        """At the end of the stream: what was held back and did not become a stop string."""
        sendable, self._held = self._held, ""
        return sendable

    def _partial(self, stop: str) -> int:
        """Measure the longest proper prefix of `stop` that ends the held text."""
        longest = min(len(stop) - 1, len(self._held))
        return next((n for n in range(longest, 0, -1) if self._held.endswith(stop[:n])), 0)
