"""Other rules for what an LTE layer's slots hold: the baselines that LTE has to beat.

They run the layer's own code with other ranks, in evaluations only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from lalte.layers.lte import LTEAttention
from lalte.layers.mixer import Mixer
from lalte.state.tensors import compute_dtype
from lalte_kernels import rope

if TYPE_CHECKING:
    from lalte.config import LTEConfig, ModelConfig
    from lalte.layers.mixer import Where
    from lalte.state.tensors import LTEState

_MANTISSA = 53


class RandomRetention(LTEAttention):
    """Retains B tokens drawn at random from all that left the window, by head.

    A token's rank is a hash of (seed, layer, head, position), so that every prefix of a stream
    keeps a uniform sample of itself (reservoir sampling).
    """

    def __init__(
        self,
        config: ModelConfig,
        layer: LTEConfig,
        dtype: torch.dtype,
        device: torch.device,
        stream: int,
    ) -> None:
        """`stream` tells seeds and layers apart."""
        super().__init__(config, layer, dtype, device)
        self._stream = stream

    def score(self, key: torch.Tensor, value: torch.Tensor, first: int) -> torch.Tensor:  # noqa: ARG002
        device = key.device
        n = key.shape[1] - 2 * self.reach
        position = torch.arange(n, device=device) + (first + self.reach)
        head = torch.arange(self.kv_heads, device=device)[:, None]
        drawn = _hash(_hash(position + self._stream * 2**32) + head)
        # Above 0, or they would not be worth keeping.
        ranks = (drawn >> (64 - _MANTISSA) & (2**_MANTISSA - 1)).double() * 2.0**-_MANTISSA + 1e-9
        return torch.where(position >= 0, ranks, 0).to(compute_dtype(key.dtype))


class AttendedRetention(LTEAttention):
    """Retains the B tokens that drew the most attention so far (H2O, arXiv 2306.14048).

    A token's rank is the sum of the attention probabilities that all queries since, of all heads
    of its group, have given to it. The sums of retained tokens stand in `logit`; those of the
    window and the block in `ready`, for which the state's own is too narrow: see `widen`.
    """

    absorb_uses_scratch = True
    absorb = Mixer.absorb

    def widen(self, state: LTEState) -> LTEState:
        """Return a state with room for the sums: ready [slots, kv_heads, w + C]."""
        slots = state.key.shape[0]
        width = self.window + self.chunk
        return state._replace(ready=state.ready.new_zeros(slots, self.kv_heads, width))

    def advance(
        self, inputs: tuple[torch.Tensor, ...], state: LTEState, where: Where
    ) -> torch.Tensor:
        mixed = super().advance(inputs, state, where)
        lanes, n = inputs[0].shape[:2]
        visible = self.visible(state, where)
        keys = visible.shape[-1]
        q = inputs[0].reshape(lanes, n, self.heads, self.head_dim).transpose(1, 2)
        q = rope(q, self.angles(where)[:, None], self.theta).float()
        q = q.reshape(lanes, self.kv_heads, -1, self.head_dim)
        scores = q @ state.rotated[:, :, :keys].float().mT * self.head_dim**-0.5
        scores = scores.view(lanes, self.kv_heads, -1, n, keys)
        seen = visible.expand(lanes, self.kv_heads, n, keys)[:, :, None]
        drawn = scores.masked_fill(~seen, float("-inf")).softmax(dim=-1).sum(dim=(2, 3))
        state.logit.add_(drawn[..., : self.kept])
        state.ready[..., : keys - self.kept].add_(drawn[..., self.kept :])
        return mixed

    def roll(self, state: LTEState, start: int, tokens: torch.Tensor) -> None:
        later = state.ready[0, :, self.chunk :].clone()
        # A sum can underflow to 0, and what is not above 0 would not be worth keeping.
        state.ready.add_(torch.finfo(state.ready.dtype).tiny)
        narrow = state.ready[:, :, : self.chunk + self.reach]
        super().roll(state._replace(ready=narrow), start, tokens)
        state.ready[0, :, : self.window] = later
        state.ready[0, :, self.window :] = 0

    def _score(self, state: LTEState, start: int) -> None:
        """Leave the sums as they are: there is nothing to compute ahead of time."""


def _hash(x: torch.Tensor) -> torch.Tensor:
    """Mix the bits of int64 numbers (splitmix64); products wrap around."""
    x = x + _signed(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ _shifted(x, shift)) * _signed(factor)
    mixed: torch.Tensor = x ^ _shifted(x, 31)
    return mixed


def _shifted(x: torch.Tensor, bits: int) -> torch.Tensor:
    """Shift right without the sign."""
    shifted: torch.Tensor = (x >> bits) & (2 ** (64 - bits) - 1)
    return shifted


def _signed(number: int) -> int:
    return number - 2**64 if number >= 2**63 else number
