"""Softmax attention over key and value buffers: what LTE and sliding windows share.

Keys are stored before RoPE and turned relative to the start t of the open block: block rows when
they are appended, all older rows once per block.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

import torch

from lalte.layers.linear import Linear
from lalte.layers.mixer import Mixer, State
from lalte.state.tensors import LTEState, SWAState
from lalte_kernels import rope, sparse_attention

if TYPE_CHECKING:
    from lalte.config import ModelConfig
    from lalte.layers.mixer import Where


class Attention(Mixer[State]):
    """Queries, keys and values of grouped-query attention, and the way back."""

    def __init__(self, config: ModelConfig, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        self.heads = config.num_heads
        self.kv_heads = config.num_kv_heads
        self.head_dim = config.head_dim
        self.chunk = config.chunk
        self.theta = config.rope_theta
        hidden, d = config.hidden_size, config.head_dim
        self.q_proj = Linear(hidden, self.heads * d, dtype, device)
        self.k_proj = Linear(hidden, self.kv_heads * d, dtype, device)
        self.v_proj = Linear(hidden, self.kv_heads * d, dtype, device)
        self.o_proj = Linear(self.heads * d, hidden, dtype, device)

    def project(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.q_proj(x), self.k_proj(x), self.v_proj(x)

    def output(self, mixed: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.o_proj(mixed)
        return out

    def split_heads(self, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        """Return q [lanes, kv_heads, group, n, d], k and v [lanes, kv_heads, n, d], before RoPE.

        inputs: what `project` returned, each [lanes, n, features].
        """
        lanes, n = inputs[0].shape[:2]
        d = self.head_dim
        q = inputs[0].reshape(lanes, n, self.kv_heads, -1, d).permute(0, 2, 3, 1, 4)
        k, v = (x.reshape(lanes, n, self.kv_heads, d).transpose(1, 2) for x in inputs[1:])
        return q, k, v


class BufferedAttention(Attention[State]):
    """Attention over buffers of a fixed size; what a query sees is the subclass's `visible`."""

    @abstractmethod
    def block_rows(self, starts: list[int]) -> list[int]:
        """Return the buffer row at which each lane's open block begins."""

    @abstractmethod
    def visible(self, state: State, where: Where) -> torch.Tensor:
        """Return which buffer rows each of the next n queries sees.

        bool, broadcastable to [lanes, kv_heads, n, keys]; keys may fall short of the buffer.
        """

    def angles(self, where: Where) -> torch.Tensor:
        """Return how far to turn each row: its position relative to where angles start.

        int64 [lanes, n]. That is t, unless a layer that prepares older rows accordingly says else.
        """
        return where.relative

    def advance(self, inputs: tuple[torch.Tensor, ...], state: State, where: Where) -> torch.Tensor:
        assert isinstance(state, LTEState | SWAState)  # noqa: S101 - for the checker
        lanes, n = inputs[0].shape[:2]
        q, k, v = self.split_heads(inputs)
        angles = self.angles(where)
        turned_k = rope(k, angles[:, None], self.theta)
        turned_q = rope(q, angles[:, None, None], self.theta)
        for lane, block in enumerate(self.block_rows(where.starts)):
            rows = slice(block + where.filled[lane], block + where.filled[lane] + n)
            state.key[lane, :, rows] = k[lane]
            state.rotated[lane, :, rows] = turned_k[lane]
            state.value[lane, :, rows] = v[lane]

        visible = self.visible(state, where)
        keys = visible.shape[-1]
        mixed = sparse_attention(
            turned_q, state.rotated[:, :, :keys], state.value[:, :, :keys], visible
        )
        return mixed.permute(0, 3, 1, 2, 4).reshape(lanes, n, -1)


def column(values: list[int], device: torch.device) -> torch.Tensor:
    """Return one number per lane as [lanes, 1, 1, 1], to broadcast over heads, queries and keys."""
    return torch.tensor(values, device=device)[:, None, None, None]


def shift_window(buffer: torch.Tensor, first: int, rows: int, chunk: int) -> None:
    """Move a full block into the window before it, in age order.

    buffer: [slots, kv_heads, rows, d]; the window of `rows` rows begins at row `first`.
    """
    # The ranges overlap, hence the copy.
    buffer[:, :, first : first + rows] = buffer[:, :, first + chunk : first + chunk + rows].clone()
