"""Answers samples through a daemon, as any client does: append, then ask."""

import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from lalte.config import LTEConfig
from lalte.evaluation.samples import Question, Reply, Sample
from lalte.evaluation.stream import Framing, kept_shares
from memoryd_client import Ack, Client, Inspection, Role, Sampling, Turn

if TYPE_CHECKING:
    from lalte.config import ModelConfig
    from lalte.text import Tokenizer, TurnFormat


class SessionReader:
    """Each sample gets a session of its own, which is deleted when its questions are answered.

    Safe to use from several threads, so that the daemon can batch sessions and replies.
    """

    def __init__(
        self,
        client: Client,
        config: "ModelConfig",
        tokenizer: "Tokenizer",
        turns: "TurnFormat",
        at_once: int = 8,
        on_tokens: Callable[[int], None] = lambda _: None,
    ) -> None:
        """config, tokenizer, turns: of the model that the daemon serves.

        at_once: questions of one sample that are asked together.
        """
        self._client = client
        self._config = config
        self._framing = Framing(tokenizer, turns)
        self._on_tokens = on_tokens
        self._at_once = at_once

    def answer(self, sample: Sample) -> list[Reply]:
        """Reply to each question of a sample."""
        session = self._client.create_session(f"eval-{uuid.uuid4().hex}").name
        try:
            tokens = self._tell(session, sample) if sample.told else 0
            with ThreadPoolExecutor(self._at_once) as pool:
                written = list(pool.map(lambda q: self._ask(session, q), sample.questions))
            kept = self._kept(session, sample)
        finally:
            self._client.delete_session(session)
        return [
            Reply(text, ids, tokens, shares)
            for (text, ids), shares in zip(written, kept, strict=True)
        ]

    def _tell(self, session: str, sample: Sample) -> int:
        """Append the stream; how many tokens it has. Its end may not be read yet."""
        read = 0

        def note(ack: Ack) -> None:
            nonlocal read
            self._on_tokens(ack.offset.tokens - read)
            read = ack.offset.tokens

        result = self._client.append_stream(session, _turns(sample), on_ack=note)
        return result.offset.tokens

    def _ask(self, session: str, question: Question) -> tuple[str, tuple[int, ...]]:
        """The reply's text and ids; the rest of it is cancelled once it is right."""
        sampling = Sampling(max_tokens=question.max_tokens, stop=question.stop)
        text = ""
        with self._client.query(
            session,
            question.text,
            raw=question.raw,
            reply_prefix=question.prefix,
            sampling=sampling,
        ) as reply:
            for delta in reply:
                text += delta
                if question.is_right(text):
                    break
            return text, tuple(reply.token_ids)

    def _kept(self, session: str, sample: Sample) -> list[tuple[tuple[float, ...], ...] | None]:
        layers = [layer for layer in self._config.layers if isinstance(layer, LTEConfig)]
        if not layers or not any(question.value for question in sample.questions):
            return [None] * len(sample.questions)
        limit = max(max(layer.budgets) for layer in layers)
        heads = list(self._heads(self._client.inspect(session, limit=limit)))
        ids = self._framing.stream(sample.told)
        return [
            kept_shares(self._framing.value_positions(ids, question.value), heads)
            if question.value
            else None
            for question in sample.questions
        ]

    def _heads(self, seen: Inspection) -> Iterator[tuple[int, set[int], int]]:
        for head in seen.heads:
            layer = self._config.layers[head.layer]
            window = layer.window if isinstance(layer, LTEConfig) else 0
            positions = {token.position for token in head.tokens}
            yield head.layer, positions, seen.offset.tokens - window


def _turns(sample: Sample) -> Iterator[Turn]:
    return (Turn(Role(told.role.value), told.text) for told in sample.told)
