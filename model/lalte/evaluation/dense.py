"""The teacher: the same weights with full attention, whose memory is every key and value.

Prompts are read in one pass with true positions, as the weights were trained. Only attention
layers can be read this way; what their mixers keep or forget otherwise does not matter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from lalte.evaluation.drafts import Draft
from lalte.evaluation.errors import EvaluationError
from lalte.evaluation.stream import Framing
from lalte.layers.attention import Attention
from lalte.model import Block
from lalte_kernels import rope

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lalte.evaluation.samples import Reply, Sample
    from lalte.model import LaLTE
    from lalte.text import Tokenizer, TurnFormat

# Rows at once behind the first ones: their mask is as wide as the whole stream.
_ROWS = 1024


class DenseModel:
    """Keys and values of one stream, and the model that adds to them.

    length: tokens read. A shorter length forgets what came later.
    """

    def __init__(self, model: LaLTE) -> None:
        """Raises EvaluationError for a model with layers that are no attention."""
        self._model = model
        self._blocks = [block for block in model.model.layers if isinstance(block, Block)]
        for index, block in enumerate(self._blocks):
            if not isinstance(block.attn, Attention):
                kind = model.config.layers[index].kind
                raise EvaluationError(
                    "full attention",
                    f"layer {index} is a {kind} layer: name a folder of the same weights with "
                    "attention in every layer (--base; `memoryd model convert` makes one)",
                )
        empty = torch.empty(0, dtype=model.dtype)
        self._cache = [(empty, empty)] * len(self._blocks)
        self.length = 0

    @torch.no_grad()
    def read(self, ids: list[int]) -> Iterator[torch.Tensor]:
        """Read on; yields the last layer's rows for the tokens, [rows, hidden] at a time."""
        for piece in torch.tensor(ids).split(_ROWS):  # type: ignore[no-untyped-call]
            yield self._read(piece)

    @torch.no_grad()
    def logits(self, rows: torch.Tensor) -> torch.Tensor:
        """[rows, hidden] -> [rows, vocab], fp32."""
        model = self._model
        tied = model.config.tie_embeddings
        weight = model.model.embeddings.weight if tied else model.lm_head.weight
        return functional.linear(model.model.norm(rows), weight).float()

    def next_token(self, ids: list[int]) -> int:
        """Read tokens; the likeliest one behind them."""
        row = list(self.read(ids))[-1][-1:]
        return int(self.logits(row).argmax())

    def _read(self, tokens: torch.Tensor) -> torch.Tensor:
        first, last = self.length, self.length + tokens.shape[0]
        position = torch.arange(first, last)
        mask = torch.arange(last) <= position[:, None]
        x: torch.Tensor = self._model.model.embeddings(tokens)
        for index, block in enumerate(self._blocks):
            attn = block.attn
            assert isinstance(attn, Attention)  # noqa: S101 - for the checker
            q, k, v = (
                y.view(y.shape[0], -1, attn.head_dim).transpose(0, 1)
                for y in attn.project(block.attn_norm(x))
            )
            k, v = self._remember(index, rope(k, position, attn.theta), v)
            mixed = functional.scaled_dot_product_attention(
                rope(q, position, attn.theta)[None], k[None], v[None], mask, enable_gqa=True
            )[0]
            x = block.finish(x, mixed.transpose(0, 1).flatten(1))
        self.length = last
        return x

    def _remember(
        self, index: int, k: torch.Tensor, v: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """All keys and values of a layer up to the new ones. k, v: [kv_heads, rows, d]."""
        if self.length:
            old_k, old_v = (x[:, : self.length] for x in self._cache[index])
            k, v = torch.cat([old_k, k], dim=1), torch.cat([old_v, v], dim=1)
        self._cache[index] = (k, v)
        return k, v


class DenseReader:
    """Answers samples with full attention, each question behind the same keys and values."""

    def __init__(
        self,
        model: LaLTE,
        tokenizer: Tokenizer,
        turns: TurnFormat,
        on_tokens: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._framing = Framing(tokenizer, turns)
        self._stop_ids = turns.stop_ids
        self._on_tokens = on_tokens
        DenseModel(model)  # refuses a model that it cannot read

    def answer(self, sample: Sample) -> list[Reply]:
        """Reply to each question of a sample."""
        dense = DenseModel(self._model)
        ids = self._framing.stream(sample.told)
        for rows in dense.read(ids) if ids else ():
            self._on_tokens(rows.shape[0])
        replies = []
        for number, question in enumerate(sample.questions):
            dense.length = len(ids)
            draft = Draft(number, question, self._tokenizer, self._stop_ids)
            asked = self._framing.question(question, started=bool(sample.told))
            self._on_tokens(len(asked))
            token = dense.next_token(asked)
            while draft.push(token):
                token = dense.next_token([token])
            replies.append(draft.reply(len(ids)))
        return replies
