"""Answers samples in this process, from a state of fixed size: what a session does, without one.

The context is absorbed block by block; each question is read by a copy of the state, which then
replies greedily. Copies reply together, one token each at a time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from lalte.config import LTEConfig
from lalte.evaluation.drafts import Draft
from lalte.evaluation.stream import Framing, kept_shares
from lalte.state import copy_slot

if TYPE_CHECKING:
    from collections.abc import Callable

    from lalte.evaluation.samples import Question, Reply, Sample
    from lalte.evaluation.variants import Memory
    from lalte.text import Tokenizer, TurnFormat

_BLOCKS_AT_ONCE = 16


class StateReader:
    """Reads with one memory. lanes: replies that are written together."""

    def __init__(
        self,
        memory: Memory,
        tokenizer: Tokenizer,
        turns: TurnFormat,
        lanes: int = 8,
        on_tokens: Callable[[int], None] = lambda _: None,
    ) -> None:
        """`on_tokens` is told how many tokens were read."""
        self._model = memory.model
        self._tokenizer = tokenizer
        self._framing = Framing(tokenizer, turns)
        self._stop_ids = turns.stop_ids
        self._on_tokens = on_tokens
        # Slot 0 holds the stream, the others are lanes.
        self._slots = memory.allocate(1 + lanes)

    def answer(self, sample: Sample) -> list[Reply]:
        """Reply to each question of a sample."""
        self._slots.reset(0)
        ids = self._framing.stream(sample.told)
        absorbed = self._absorb(ids)
        kept = [self._kept(ids, absorbed, question) for question in sample.questions]
        waiting = [
            Draft(number, question, self._tokenizer, self._stop_ids)
            for number, question in enumerate(sample.questions)
        ][::-1]
        replies: dict[int, Reply] = {}
        writing: list[Draft] = []  # draft i is in slot 1 + i
        while waiting or writing:
            while waiting and len(writing) < self._slots.count - 1:
                draft = waiting.pop()
                question = self._framing.question(
                    sample.questions[draft.number], started=bool(sample.told)
                )
                token = self._ask(1 + len(writing), ids[absorbed:] + question)
                if draft.push(token):
                    writing.append(draft)
                else:
                    replies[draft.number] = draft.reply(len(ids), kept[draft.number])
            if writing:
                done = self._write(writing)
                for draft in done:
                    replies[draft.number] = draft.reply(len(ids), kept[draft.number])
        return [replies[number] for number in range(len(sample.questions))]

    def _absorb(self, ids: list[int]) -> int:
        """Absorb the whole blocks of a stream; says how many tokens those are."""
        chunk = self._model.config.chunk
        whole = len(ids) - len(ids) % chunk
        for first in range(0, whole, chunk * _BLOCKS_AT_ONCE):
            piece = torch.tensor([ids[first : min(first + chunk * _BLOCKS_AT_ONCE, whole)]])
            self._model.absorb(piece, [self._slots.view(0)])
            self._on_tokens(piece.shape[1])
        return whole

    def _ask(self, lane: int, ids: list[int]) -> int:
        """Read what follows the absorbed stream on a copy; the first token of the reply."""
        copy_slot(self._slots, 0, self._slots, lane)
        self._on_tokens(len(ids))
        return int(self._model.extend(torch.tensor(ids), self._slots.view(lane)).argmax())

    def _write(self, writing: list[Draft]) -> list[Draft]:
        """One token for each draft; takes those that end out of `writing` and returns them."""
        view = self._slots.view(1, 1 + len(writing))
        logits = self._model.step(torch.tensor([draft.last for draft in writing]), view)
        drawn = logits.argmax(dim=-1).tolist()
        ended = [not draft.push(token) for draft, token in zip(writing, drawn, strict=True)]
        done = []
        # From the last one on, so that what moves into a gap is still being written.
        for lane in reversed(range(len(writing))):
            if ended[lane]:
                done.append(writing[lane])
                last = writing.pop()
                if lane < len(writing):
                    writing[lane] = last
                    copy_slot(self._slots, 1 + len(writing), self._slots, 1 + lane)
        return done

    def _kept(
        self, ids: list[int], absorbed: int, question: Question
    ) -> tuple[tuple[float, ...], ...] | None:
        if not question.value:
            return None
        heads = []
        for retained in self._slots.retained(0):
            layer = self._model.config.layers[retained.layer]
            window = layer.window if isinstance(layer, LTEConfig) else 0
            heads.append((retained.layer, retained.positions, absorbed - window))
        return kept_shares(self._framing.value_positions(ids, question.value), heads)
