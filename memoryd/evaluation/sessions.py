"""Answers samples through a daemon, as any client does: append, then ask."""

import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from lalte.config import LTEConfig
from lalte.evaluation.samples import Question, Reply, Sample
from lalte.evaluation.stream import Framing, kept_shares
from memoryd_client import Ack, Client, Inspection, Piece, Role, Sampling, Session, Turn

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
        with self._session() as session:
            return self._answer_in(session, sample, _turns(sample))

    def answer_together(self, samples: Sequence[Sample]) -> Iterator[list[Reply]]:
        """Reply to samples of one haystack, which is read once: in their order, as they are done.

        One session reads what they share, and is forked where the next needle comes. Forks know its
        writer, so that a stream which is sent them from its start goes on where it stands.
        """
        writer = uuid.uuid4().hex
        cuts = sorted(sample.shared for sample in samples)
        with ExitStack() as stack:
            forks: dict[int, Session] = {}
            with self._session() as trunk:
                deepest = max(samples, key=lambda sample: sample.shared)
                for cut in dict.fromkeys(cuts):
                    self._append(trunk, _pieces(deepest, cuts, cut), writer)
                    # What it has not read yet every fork would have to.
                    self._client.query(trunk.name, raw=True, sampling=Sampling(max_tokens=1)).text()
                    trunk = self._client.get_session(trunk.name)
                    for number, sample in enumerate(samples):
                        if sample.shared == cut:
                            fork = self._client.fork_session(trunk.name, _new_name())
                            stack.callback(self._client.delete_session, fork.name)
                            forks[number] = fork
            with ThreadPoolExecutor(self._at_once) as pool:
                yield from pool.map(
                    lambda number: self._answer_in(
                        forks[number], samples[number], _pieces(samples[number], cuts), writer
                    ),
                    range(len(samples)),
                )

    @contextmanager
    def _session(self) -> Iterator[Session]:
        session = self._client.create_session(_new_name())
        try:
            yield session
        finally:
            self._client.delete_session(session.name)

    def _answer_in(
        self,
        session: Session,
        sample: Sample,
        source: Iterator[Turn | Piece],
        writer: str | None = None,
    ) -> list[Reply]:
        tokens = self._append(session, source, writer) if sample.told else 0
        with ThreadPoolExecutor(self._at_once) as pool:
            written = list(pool.map(lambda q: self._ask(session.name, q), sample.questions))
        return [
            Reply(text, ids, tokens, shares)
            for (text, ids), shares in zip(written, self._kept(session.name, sample), strict=True)
        ]

    def _append(
        self, session: Session, source: Iterator[Turn | Piece], writer: str | None = None
    ) -> int:
        """Append a stream; how many tokens it has now. Its end may not be read yet."""
        read = session.acked_tokens

        def note(ack: Ack) -> None:
            nonlocal read
            self._on_tokens(ack.offset.tokens - read)
            read = ack.offset.tokens

        result = self._client.append_stream(session.name, source, on_ack=note, writer_id=writer)
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


def _new_name() -> str:
    return f"eval-{uuid.uuid4().hex}"


def _turns(sample: Sample) -> Iterator[Turn]:
    return (Turn(Role(told.role.value), told.text) for told in sample.told)


def _pieces(sample: Sample, cuts: Sequence[int], end: int | None = None) -> Iterator[Piece]:
    """The sample's only text in pieces that end at the cuts it shares; all of it, or up to `end`.

    cuts: where samples of the haystack part from each other, rising.
    """
    (told,) = sample.told
    last = sample.shared if end is None else end
    role, first = Role(told.role.value), 0
    for cut in cuts:
        if first < cut <= last:
            yield Piece(role, told.text[first:cut], open=True)
            first = cut
    if end is None:
        yield Piece(role, told.text[first:])
