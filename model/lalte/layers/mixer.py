"""What every mixer (attention or recurrent layer) offers to the model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import nn

from lalte.state.tensors import LayerState

State = TypeVar("State", bound=LayerState)


class Where(NamedTuple):
    """Where in their streams the n rows of each lane stand.

    starts: t = kC of each lane's open block. filled: rows that the block already holds.
    relative: int64 [lanes, n], the rows' positions relative to their lane's t.
    """

    starts: list[int]
    filled: list[int]
    relative: torch.Tensor

    @classmethod
    def of(cls, starts: list[int], filled: list[int], n: int, device: torch.device) -> Where:
        rows = torch.arange(n, device=device)
        return cls(starts, filled, torch.tensor(filled, device=device)[:, None] + rows)

    def lane(self, index: int) -> Where:
        """One lane's."""
        one = slice(index, index + 1)
        return Where(self.starts[one], self.filled[one], self.relative[one])


class Mixer(nn.Module, ABC, Generic[State]):
    """A layer that mixes information over time, and the state by which it goes on.

    absorb_uses_scratch: whether `absorb` reads the scratch tensors and leaves them valid; where it
    does neither, they are to be prepared before the next `advance`.
    """

    absorb_uses_scratch: bool = True

    @abstractmethod
    def project(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return what `advance` needs of each row. x: [rows, hidden] -> each [rows, features]."""

    @abstractmethod
    def advance(self, inputs: tuple[torch.Tensor, ...], state: State, where: Where) -> torch.Tensor:
        """Append n rows to each lane's open block (n fits into it) and mix them.

        inputs: what `project` returned, each [lanes, n, features]. Returns [lanes, n, features].
        """

    def absorb(
        self,
        inputs: tuple[torch.Tensor, ...],
        state: State,
        start: int,
        tokens: torch.Tensor,
        blocks: int,
    ) -> torch.Tensor:
        """Append whole blocks to a one-slot state at the committed offset `start`; commit each.

        inputs: what `project` returned, each [blocks * C, features]. tokens: int32 [token_window +
        blocks * C], the ids up to the last block's last. Returns [blocks * C, features]. Rows and
        state are the same bits for any number of blocks.
        """
        n = inputs[0].shape[0]
        chunk = n // blocks
        seen = tokens.shape[0] - n + chunk
        mixed = []
        for first in range(0, n, chunk):
            rows = tuple(x[None, first : first + chunk] for x in inputs)
            where = Where.of([start + first], [0], chunk, rows[0].device)
            mixed.append(self.advance(rows, state, where)[0])
            self.roll(state, start + first, tokens[first : first + seen])
        return torch.cat(mixed)

    @abstractmethod
    def output(self, mixed: torch.Tensor) -> torch.Tensor:
        """Return to the residual stream. mixed: [rows, features] -> [rows, hidden]."""

    @abstractmethod
    def roll(self, state: State, start: int, tokens: torch.Tensor) -> None:
        """Commit the full block [start, start + C) of a one-slot state.

        tokens: int32 [token_window + C], the ids up to the block's last.
        """

    @abstractmethod
    def prepare(self, state: State, start: int) -> None:
        """Renew a one-slot state's scratch tensors at the committed offset `start`."""
