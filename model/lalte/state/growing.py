"""States that grow with their streams: one a slot, each as large as its own stream needs.

A token's row is its position. Rows behind the stream's end are unused, and finite.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from lalte.config import FullConfig
from lalte.state.tensors import FullState, GrowingState, NSAState

if TYPE_CHECKING:
    from lalte.config import GrowingLayerConfig, ModelConfig


class GrowingSlots:
    """The states of one layer. slots: named tuples of tensors [1, kv_heads, rows, head_dim]."""

    def __init__(
        self,
        config: ModelConfig,
        layer: GrowingLayerConfig,
        count: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self._layer = layer
        self._chunk = config.chunk
        self._empty = torch.zeros(
            1, config.num_kv_heads, 0, config.head_dim, dtype=dtype, device=device
        )
        self.slots: list[GrowingState] = [self._allocate(0) for _ in range(count)]

    def tensors(self) -> list[torch.Tensor]:
        return [x for state in self.slots for x in state]

    def reset(self, slot: int) -> None:
        """Put a slot back to the start of a stream, and give its memory back."""
        self.slots[slot] = self._allocate(0)

    def reserve(self, slot: int, length: int) -> None:
        """Make room for a stream of `length` tokens."""
        old = self.slots[slot]
        capacity = old.key.shape[2]
        if capacity >= length:
            return
        # By a quarter at least: growing block by block would copy the whole each time.
        self.slots[slot] = self._allocate(max(length, capacity * 5 // 4))
        _copy(old, self.slots[slot])

    def copy(self, slot: int, source: GrowingState, length: int) -> None:
        """Make a slot equal to a state of a stream of `length` tokens."""
        if not length <= self.slots[slot].key.shape[2] <= 2 * length + self._chunk:
            self.slots[slot] = self._allocate(length)
        used = (x[:, :, : self._rows(i, length)] for i, x in enumerate(source))
        _copy(type(source)(*used), self.slots[slot])

    def _allocate(self, length: int) -> GrowingState:
        """Return an empty state with room for `length` tokens."""
        length = -(-length // self._chunk) * self._chunk
        kind = FullState if isinstance(self._layer, FullConfig) else NSAState
        rows = [self._rows(i, length) for i in range(len(kind._fields))]
        return kind(
            *(self._empty.new_zeros(*self._empty.shape[:2], n, self._empty.shape[3]) for n in rows)
        )

    def _rows(self, field: int, length: int) -> int:
        """Rows of a tensor that `length` tokens fill: their own, or their blocks' means."""
        if isinstance(self._layer, FullConfig) or field < NSAState._fields.index("pooled_key"):
            return length
        return length // self._layer.block_size


def _copy(old: GrowingState, new: GrowingState) -> None:
    for x, y in zip(old, new, strict=True):
        y[:, :, : x.shape[2]] = x
