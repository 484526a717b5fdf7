"""Memory streams: ordinary text with invented facts in it, and questions about them at the end.

A stream is a function of (corpus, seed, index), so that a run can be resumed, and repeated.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from lalte.retrofit.corpus import sentences
from lalte.retrofit.facts import Fact, draw_fact
from lalte.text import Role

if TYPE_CHECKING:
    from lalte.retrofit.corpus import Corpus
    from lalte.retrofit.templates import Templates
    from lalte.text import Tokenizer, TurnFormat

NO_FACT = -1

_SPEAKERS = {"user": Role.USER, "system": Role.ASSISTANT}
_CHARACTERS_PER_TOKEN = 4
_FRAME_TOKENS = 6  # around a turn of a dialogue, about
_UPDATED = 0.12  # share of facts that have a value before the last one
_TITLED = 0.5  # share of raw streams that ask as "Question:" and "Answer:"


@dataclass(frozen=True)
class StreamShape:
    """How long and how dense streams are: tokens of told text, and facts in them."""

    tokens: int
    facts: tuple[int, int]

    def draw_facts(self, rng: random.Random) -> int:
        return rng.randint(*self.facts)


@dataclass(frozen=True)
class MemoryStream:
    """A stream as tokens, and what they are.

    tokens: int64 [n]. told: the first so many tokens are the text, the rest the questions with
    their answers. fact: int16 [n], the number of the fact that a token of the text helps to tell,
    else NO_FACT. value: bool [n], in the text: tokens of a current value; in the questions: tokens
    of answers, which a model with memory predicts.
    """

    tokens: torch.Tensor
    told: int
    fact: torch.Tensor
    value: torch.Tensor


@dataclass(frozen=True)
class _Span:
    """A piece of text and what it belongs to."""

    text: str
    fact: int = NO_FACT
    value: bool = False


class StreamWriter:
    """Writes streams for one tokenizer over one corpus with one set of templates."""

    def __init__(
        self,
        corpus: Corpus,
        templates: Templates,
        tokenizer: Tokenizer,
        turns: TurnFormat,
        shape: StreamShape,
    ) -> None:
        self._corpus = corpus
        self._templates = templates
        self._tokenizer = tokenizer
        self._turns = turns
        self._shape = shape

    def write(self, seed: int, index: int) -> MemoryStream:
        """Write stream `index` of `seed`."""
        # Text as a seed is hashed the same everywhere.
        rng = random.Random(f"memory stream {seed} {index}")  # noqa: S311  nothing secret
        count = self._shape.draw_facts(rng)
        facts = [draw_fact(rng, updated=rng.random() < _UPDATED) for _ in range(count)]
        paper = _Paper(self._tokenizer)
        if rng.random() < 0.5:
            framed = self._tell_document(paper, rng, facts)
        else:
            framed = self._tell_dialogue(paper, rng, facts)
        told = len(paper.tokens)
        self._ask(paper, rng, facts, framed=framed)
        return MemoryStream(
            torch.tensor(paper.tokens),
            told,
            torch.tensor(paper.fact, dtype=torch.int16),
            torch.tensor(paper.value),
        )

    def _tell_document(self, paper: _Paper, rng: random.Random, facts: list[Fact]) -> bool:
        """Write a book's passage with facts between its sentences; says whether it is framed."""
        framed = rng.random() < 0.5
        text = self._corpus.passage(rng, self._shape.tokens * _CHARACTERS_PER_TOKEN)
        pieces = [[_Span(sentence)] for sentence in sentences(text)]
        for number, told in self._tellings(rng, facts, self._templates.statements):
            spans = [*_told(told, facts[number], number), _Span(rng.choice([" ", " ", "\n"]))]
            pieces.insert(rng.randint(0, len(pieces)), spans)
        role = Role.DOCUMENT if framed else Role.RAW
        paper.frame(self._turns.start(role) + self._turns.open(role))
        paper.write([span for piece in pieces for span in piece])
        paper.frame(self._turns.close(role))
        return framed

    def _tell_dialogue(self, paper: _Paper, rng: random.Random, facts: list[Fact]) -> bool:
        """Write dialogues in which users tell facts; always framed."""
        turns: list[tuple[Role, list[_Span]]] = []
        room = self._shape.tokens
        while room > 0:
            for speaker, text in rng.choice(self._corpus.dialogues):
                if room > 0:
                    turns.append((_SPEAKERS.get(speaker, Role.USER), [_Span(text)]))
                    room -= len(text) // _CHARACTERS_PER_TOKEN + _FRAME_TOKENS
        for number, told in self._tellings(rng, facts, self._templates.turns):
            spans = _told(told, facts[number], number)
            place = rng.randrange(len(turns))
            role, beside = turns[place]
            if role is Role.USER and rng.random() < 0.5:
                turns[place] = (role, [*beside, _Span(" "), *spans])
            else:
                turns.insert(place, (Role.USER, spans))
        paper.frame(self._turns.start(Role.USER))
        for role, spans in turns:
            paper.frame(self._turns.open(role))
            paper.write(spans)
            paper.frame(self._turns.close(role))
        return True

    def _tellings(
        self, rng: random.Random, facts: list[Fact], statements: tuple[str, ...]
    ) -> list[tuple[int, str]]:
        """Choose how each fact is told: (its number, template)."""
        return [
            (number, rng.choice(self._templates.updates if fact.old else statements))
            for number, fact in enumerate(facts)
        ]

    def _ask(self, paper: _Paper, rng: random.Random, facts: list[Fact], *, framed: bool) -> None:
        titled = rng.random() < _TITLED
        for number in rng.sample(range(len(facts)), k=len(facts)):
            question, answer = rng.choice(self._templates.questions)
            asked = question.format(who=facts[number].who, what=facts[number].what)
            reply = _told(answer, facts[number], number)
            if framed:
                paper.frame(self._turns.open(Role.USER))
                paper.write([_Span(asked)])
                paper.frame(self._turns.close(Role.USER) + self._turns.reply_prefix)
                paper.write(reply)
                paper.frame(self._turns.close(Role.ASSISTANT))
            elif titled:
                paper.write([_Span(f"\nQuestion: {asked}\nAnswer: "), *reply])
            else:
                paper.write([_Span(f"\n{asked} "), *reply])


class _Paper:
    """Tokens written so far, with what each is."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.tokens: list[int] = []
        self.fact: list[int] = []
        self.value: list[bool] = []

    def frame(self, ids: list[int]) -> None:
        self.tokens += ids
        self.fact += [NO_FACT] * len(ids)
        self.value += [False] * len(ids)

    def write(self, spans: list[_Span]) -> None:
        """Encode the spans as one text, so that tokens are those of running text."""
        ids = self._tokenizer.encode_plain("".join(span.text for span in spans))
        owners = [span for span in spans for _ in range(len(span.text.encode()))]
        place = 0
        for token in ids:
            covered = owners[place : place + len(self._tokenizer.token_bytes(token))]
            place += len(covered)
            # A token over a border belongs to the fact, and to the value, that it touches.
            self.tokens.append(token)
            self.fact.append(max(span.fact for span in covered))
            self.value.append(any(span.value for span in covered))


def _told(template: str, fact: Fact, number: int) -> list[_Span]:
    """Fill a template, the value as a span of its own."""
    before, value, after = template.partition("{value}")
    fields = {"who": fact.who, "what": fact.what, "old": fact.old}
    return [
        _Span(before.format(**fields), number),
        _Span(fact.value if value else "", number, value=True),
        _Span(after.format(**fields), number),
    ]
