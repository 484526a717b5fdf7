"""Slots: the states of many sessions side by side, and views of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import xxhash

from lalte.config import GrowingLayerConfig, LTEConfig
from lalte.state.arrays import (
    LAST_ROW,
    TOKENS,
    array_specs,
    layer_tensors,
    to_array,
    write_layer,
)
from lalte.state.checks import check_committed, verify
from lalte.state.errors import StateError
from lalte.state.growing import GrowingSlots
from lalte.state.tensors import LTEState, allocate_layer, clear, narrow

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lalte.config import ModelConfig
    from lalte.state.arrays import Array
    from lalte.state.tensors import FixedState, LayerState


@dataclass(frozen=True)
class RetainedTokens:
    """What one KV head of one LTE layer has kept, oldest first."""

    layer: int
    head: int
    positions: list[int]
    token_ids: list[int]
    logits: list[float]


class StateSlots:
    """The states of `count` sessions of one model.

    layers: one named tuple of tensors per layer, or a GrowingSlots. tokens: int32 [count,
    token_window + chunk], the ids of the last tokens, the open block's last. last_row: [count,
    hidden], the last layer's output for the last token consumed: what a reply without a prompt
    starts from.
    offsets: tokens consumed, per slot.
    stale: per slot, the layers whose scratch tensors do not fit the rest; the model renews them.
    """

    def __init__(
        self, config: ModelConfig, count: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.config = config
        self.count = count
        self.dtype = dtype
        self.layers: list[FixedState | GrowingSlots] = [
            GrowingSlots(config, layer, count, dtype, device)
            if isinstance(layer, GrowingLayerConfig)
            else allocate_layer(config, layer, count, dtype, device)
            for layer in config.layers
        ]
        self.tokens = torch.zeros(
            count, config.token_window + config.chunk, dtype=torch.int32, device=device
        )
        self.last_row = torch.zeros(count, config.hidden_size, dtype=dtype, device=device)
        self.offsets = [0] * count
        self.stale: list[set[int]] = [set() for _ in range(count)]

    @classmethod
    def allocate(
        cls,
        config: ModelConfig,
        slots: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> StateSlots:
        """Return `slots` slots, each at the start of a stream."""
        return cls(config, slots, dtype, torch.device(device))

    @property
    def resident_bytes(self) -> int:
        """Memory that all slots hold, scratch included."""
        tensors = [self.tokens, self.last_row]
        for state in self.layers:
            tensors += state.tensors() if isinstance(state, GrowingSlots) else state
        return sum(x.numel() * x.element_size() for x in tensors)

    def view(self, first: int, last: int | None = None) -> StateView:
        """Return slots [first, last), or the one slot `first`, without copying."""
        return StateView(self, first, first + 1 if last is None else last)

    def reset(self, slot: int) -> None:
        """Put a slot back to the start of a stream."""
        view = self.view(slot)
        for state in self.layers:
            if isinstance(state, GrowingSlots):
                state.reset(slot)
            else:
                clear(narrow(state, slot, slot + 1))
        view.tokens.zero_()
        view.last_row.zero_()
        self.offsets[slot] = 0
        self.stale[slot] = set()

    def reserve(self, slot: int, length: int) -> None:
        """Make room for a stream of `length` tokens in the layers whose state grows."""
        for state in self.layers:
            if isinstance(state, GrowingSlots):
                state.reserve(slot, length)

    def to_arrays(self, slot: int) -> dict[str, Array]:
        """Return a committed state as named arrays, in storage order.

        Raises StateError while a block is open: such a state is a function of how the stream
        was cut.
        """
        offset = self.offsets[slot]
        check_committed(self.config, offset)
        view = self.view(slot)
        tensors = {
            name: tensor
            for index, layer in enumerate(self.config.layers)
            for name, tensor in layer_tensors(
                index, layer, view.layer(index), self.config.chunk, offset
            ).items()
        }
        if self.config.token_window:
            tensors[TOKENS] = view.tokens[0, : self.config.token_window]
        tensors[LAST_ROW] = view.last_row[0]
        specs = array_specs(self.config, self.dtype, offset)
        return {spec.name: to_array(tensors[spec.name]) for spec in specs}

    def load_arrays(self, slot: int, arrays: Mapping[str, Array], offset: int) -> None:
        """Put a stored state into a slot, once everything about it is verified.

        Raises StateError, naming the array and the reason; the slot is then as it was.
        """
        tensors = verify(self.config, self.dtype, arrays, offset)
        self.reset(slot)
        self.reserve(slot, offset)
        view = self.view(slot)
        for index, layer in enumerate(self.config.layers):
            write_layer(index, layer, view.layer(index), tensors, offset)
        if self.config.token_window:
            view.tokens[0, : self.config.token_window] = tensors[TOKENS]
        view.last_row[0] = tensors[LAST_ROW]
        self.offsets[slot] = offset
        self.stale[slot] = set(range(len(self.layers))) if offset else set()

    def checksum(self, slot: int) -> str:
        """Return the xxh3-128 of a committed state: equal sums are equal states, to the bit."""
        digest = xxhash.xxh3_128()
        digest.update(self.offsets[slot].to_bytes(8, "little"))
        for array in self.to_arrays(slot).values():
            digest.update(array.data)
        return digest.hexdigest()

    def retained(self, slot: int) -> list[RetainedTokens]:
        """Return what every LTE head has kept as of the last block boundary."""
        kept = []
        for index, layer in enumerate(self.config.layers):
            state = self.layers[index]
            if not (isinstance(layer, LTEConfig) and isinstance(state, LTEState)):
                continue
            for head in range(self.config.num_kv_heads):
                used = state.position[slot, head] >= 0
                columns = (state.position, state.token, state.logit)
                rows = [column[slot, head][used].tolist() for column in columns]
                kept.append(RetainedTokens(index, head, *rows))
        return kept


class StateView:
    """Slots [first, last) of some StateSlots. Writing to its tensors writes to the slots."""

    def __init__(self, slots: StateSlots, first: int, last: int) -> None:
        if not 0 <= first < last <= slots.count:
            raise StateError("slot", f"[{first}, {last}) is not within 0..{slots.count}")
        self.slots = slots
        self.first = first
        self.last = last

    @property
    def config(self) -> ModelConfig:
        return self.slots.config

    @property
    def lanes(self) -> int:
        return self.last - self.first

    @property
    def offsets(self) -> list[int]:
        return self.slots.offsets[self.first : self.last]

    @property
    def tokens(self) -> torch.Tensor:
        """Ids of the last tokens, int32 [lanes, token_window + chunk]."""
        return self.slots.tokens[self.first : self.last]

    @property
    def last_row(self) -> torch.Tensor:
        """The last layer's output for the last token, [lanes, hidden]."""
        return self.slots.last_row[self.first : self.last]

    @property
    def stale(self) -> set[int]:
        """The layers of the view's first slot whose scratch tensors are to be prepared."""
        return self.slots.stale[self.first]

    def lane(self, index: int) -> StateView:
        return StateView(self.slots, self.first + index, self.first + index + 1)

    def layer(self, index: int) -> LayerState:
        """The layer's tensors. Those of a layer whose state grows are read one lane at a time."""
        state = self.slots.layers[index]
        if isinstance(state, GrowingSlots):
            if self.lanes != 1:
                raise ValueError(f"layer {index} grows: take its lanes one by one")
            return state.slots[self.first]
        return narrow(state, self.first, self.last)

    def reserve(self, count: int) -> None:
        """Make room for `count` more tokens in every lane."""
        for slot in range(self.first, self.last):
            self.slots.reserve(slot, self.slots.offsets[slot] + count)

    def advance(self, count: int) -> None:
        """Record that every lane has consumed `count` more tokens."""
        for slot in range(self.first, self.last):
            self.slots.offsets[slot] += count


def copy_slot(source: StateSlots, i: int, target: StateSlots, j: int) -> None:
    """Make slot j of `target` equal to slot i of `source`, open block and scratch included."""
    if source.config != target.config or source.dtype != target.dtype:
        raise StateError("slot", "cannot be copied to slots of another model or dtype")
    for old, new in zip(source.layers, target.layers, strict=True):
        if isinstance(old, GrowingSlots) and isinstance(new, GrowingSlots):
            new.copy(j, old.slots[i], source.offsets[i])
        elif not isinstance(old, GrowingSlots) and not isinstance(new, GrowingSlots):
            for x, y in zip(narrow(old, i, i + 1), narrow(new, j, j + 1), strict=True):
                y.copy_(x)
    target.tokens[j] = source.tokens[i]
    target.last_row[j] = source.last_row[i]
    target.offsets[j] = source.offsets[i]
    target.stale[j] = set(source.stale[i])
