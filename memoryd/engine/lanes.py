"""Which generation has which lane.

Decoding lanes are [0, d), so that one model step takes them as one view; the generation that reads
its prompt has lane d. When a lane falls free the last one moves into the hole.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Move:
    """Copy lane `source` onto lane `target`."""

    source: int
    target: int


class LaneTable:
    """Lanes by generation number."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.decoding: list[int] = []
        self.prefilling: int | None = None

    @property
    def used(self) -> int:
        return len(self.decoding) + (self.prefilling is not None)

    @property
    def can_admit(self) -> bool:
        """One prompt is read at a time."""
        return self.prefilling is None and len(self.decoding) < self.count

    @property
    def prefill_lane(self) -> int:
        return len(self.decoding)

    def admit(self, generation: int) -> int:
        """The lane that `generation` reads its prompt in."""
        if not self.can_admit:
            raise ValueError("no lane is free")
        self.prefilling = generation
        return self.prefill_lane

    def start_decoding(self) -> None:
        """The prefilling generation's lane is already the next decoding one."""
        if self.prefilling is None:
            raise ValueError("no generation reads its prompt")
        self.decoding.append(self.prefilling)
        self.prefilling = None

    def remove(self, generation: int) -> list[Move]:
        """Frees the lane of `generation`; the moves, in order, that close the gap."""
        if generation == self.prefilling:
            self.prefilling = None
            return []
        hole, last = self.decoding.index(generation), len(self.decoding) - 1
        moves = []
        if hole != last:
            self.decoding[hole] = self.decoding[last]
            moves.append(Move(last, hole))
        self.decoding.pop()
        if self.prefilling is not None:
            moves.append(Move(last + 1, last))
        return moves
