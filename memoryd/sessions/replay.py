"""Reading an archive again: from what was said back to tokens."""

from dataclasses import replace

from lalte.text import Role
from memoryd.errors import InvalidUtf8Content, StateCorrupt
from memoryd.sessions.archive import Closed, Event, Frame, Replied, Said
from memoryd.sessions.text import Piece, TextFramer, TextState


class Replay:
    """A stream as it arises again, frame by frame, from its beginning.

    as_drawn: replies keep the ids that were drawn for them, as the archive's own model needs them.
    Otherwise they are text like any other, and the frames that `apply` gives say so.
    now_ms: when what is open in the end counts as touched.
    """

    def __init__(self, framer: TextFramer, *, as_drawn: bool, now_ms: int = 0) -> None:
        self._framer = framer
        self._as_drawn = as_drawn
        self._now_ms = now_ms
        self.next = 0
        self.text = TextState()

    def apply(self, events: tuple[Event, ...]) -> tuple[list[int], Frame]:
        """The tokens of one frame's events, and the frame that tells of them here.

        Raises StateCorrupt for events that no session could have taken.
        """
        tokens: list[int] = []
        told: list[Event] = []
        for event in events:
            if isinstance(event, Replied) and not self._as_drawn:
                spoken = Piece(Role.ASSISTANT, event.text.encode(), open=True)
                event = Said(spoken, self.text.writer)
            tokens += self._apply(event)
            told.append(event)
        self.next += len(tokens)
        return tokens, Frame(self.next, tuple(told))

    def _apply(self, event: Event) -> list[int]:
        match event:
            case Said(piece, writer):
                try:
                    # Only what was taken is archived: another writer's open turn was given up then.
                    tokens, self.text = self._framer.append(
                        self.text, [piece], writer=writer, now_ms=self._now_ms, abandoned=True
                    )
                except InvalidUtf8Content as error:
                    raise StateCorrupt(
                        f"the archive behind token {self.next} holds no UTF-8", offset=self.next
                    ) from error
            case Replied(_, ids):
                if self.text.role is not Role.ASSISTANT:
                    raise StateCorrupt(
                        f"the archive behind token {self.next} has a reply outside its turn",
                        offset=self.next,
                    )
                tokens = list(ids)
            case Closed():
                tokens, self.text = self._framer.close(self.text)
        return tokens


def same_text(one: TextState, other: TextState) -> bool:
    """Whether two streams have the same open turn and tail; when it was touched does not matter."""
    return replace(one, touched_ms=0) == replace(other, touched_ms=0)
