"""Memory streams: ordinary text with invented facts in it, and questions about them at the end.

A stream is made of parts, as sessions are: conversations in which users tell facts and the
assistant acknowledges them, other dialogue, books, and manuals or code as documents. It is a
function of (corpus, seed, index), so that a run can be resumed, and repeated.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from lalte.retrofit.corpus import lines, sentences
from lalte.retrofit.facts import Fact, draw_fact, draw_personal_fact, draw_who
from lalte.text import Role

if TYPE_CHECKING:
    from lalte.retrofit.corpus import Corpus
    from lalte.retrofit.voices import Voices
    from lalte.text import Tokenizer, TurnFormat

NO_FACT = -1

_SPEAKERS = {"user": Role.USER, "system": Role.ASSISTANT}
_CHARACTERS_PER_TOKEN = 4
_FRAME_TOKENS = 6  # around a turn of a dialogue, about
_UPDATED = 0.15  # share of facts that have a value before the last one
_TOLD_TWICE = 0.6  # share of those whose old value is told, too
_TITLED = 0.5  # share of raw streams that ask as "Question:" and "Answer:"
_ACKNOWLEDGED = 0.7  # share of tellings in conversation that the assistant answers
_PERSONAL = 0.7  # share of facts in conversation that people tell of themselves
_SAME_OWNER = 0.3  # share of general facts about whom the fact before was about
_LISTED = 0.25  # share of documents that tell their facts one after the other
_REFERENCE = 0.4  # share of documents that are manuals or code

# What streams are made of, and how often. Facts are told in conversations where there are any.
_PLANS = (
    (("document",), 6),
    (("dialogue",), 4),
    (("conversation", "document"), 5),
    (("conversation", "dialogue"), 4),
    (("document", "conversation", "document"), 2),
    (("conversation", "document", "dialogue"), 2),
)


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


@dataclass(frozen=True)
class _Telling:
    """One sentence of a fact: its number, template, and the fact as it was then."""

    number: int
    template: str
    fact: Fact
    is_current: bool

    def spans(self) -> list[_Span]:
        return _filled(self.template, self.fact, self.number, is_current=self.is_current)


Turn = tuple[Role, list[_Span]]


class StreamWriter:
    """Writes streams for one tokenizer over one corpus in one set of voices."""

    def __init__(
        self,
        corpus: Corpus,
        voices: Voices,
        tokenizer: Tokenizer,
        turns: TurnFormat,
        shape: StreamShape,
    ) -> None:
        self._corpus = corpus
        self._voices = voices
        self._tokenizer = tokenizer
        self._turns = turns
        self._shape = shape

    def write(self, seed: int, index: int) -> MemoryStream:
        """Write stream `index` of `seed`."""
        # Text as a seed is hashed the same everywhere.
        rng = random.Random(f"memory stream {seed} {index}")  # noqa: S311  nothing secret
        plans, weights = zip(*_PLANS, strict=True)
        plan: tuple[str, ...] = rng.choices(plans, weights)[0]
        is_raw = plan == ("document",) and rng.random() < 0.5
        telling = plan.index("conversation") if "conversation" in plan else 0
        facts = self._draw_facts(rng, in_document=plan[telling] == "document")
        tellings = self._tellings(rng, facts, in_document=plan[telling] == "document")
        long_parts = len(plan) - ("conversation" in plan)
        room = self._shape.tokens // long_parts
        turns: list[Turn] = []
        for place, part in enumerate(plan):
            told = tellings if place == telling else []
            if part == "document":
                spans = self._document(rng, told, room)
                turns.append((Role.RAW if is_raw else Role.DOCUMENT, spans))
            elif part == "dialogue":
                turns += self._dialogue(rng, told, room)
            else:
                turns += self._conversation(rng, told)
        paper = _Paper(self._tokenizer)
        paper.frame(self._turns.start(turns[0][0]))
        for role, spans in turns:
            paper.frame(self._turns.open(role))
            paper.write(spans)
            paper.frame(self._turns.close(role))
        told_tokens = len(paper.tokens)
        self._ask(paper, rng, facts, framed=not is_raw)
        return MemoryStream(
            torch.tensor(paper.tokens),
            told_tokens,
            torch.tensor(paper.fact, dtype=torch.int16),
            torch.tensor(paper.value),
        )

    def _draw_facts(self, rng: random.Random, *, in_document: bool) -> list[Fact]:
        """Draw the stream's facts, no two about the same."""
        facts: list[Fact] = []
        asked: set[tuple[str, str]] = set()
        owner = ""
        wanted = self._shape.draw_facts(rng)
        while len(facts) < wanted:
            updated = rng.random() < _UPDATED
            if not in_document and rng.random() < _PERSONAL:
                fact = draw_personal_fact(rng, self._voices, updated=updated)
            else:
                same = owner and rng.random() < _SAME_OWNER
                owner = owner if same else draw_who(rng, self._voices.words)
                fact = draw_fact(rng, self._voices, updated=updated, who=owner)
            if fact.about not in asked:
                asked.add(fact.about)
                facts.append(fact)
        return facts

    def _tellings(
        self, rng: random.Random, facts: list[Fact], *, in_document: bool
    ) -> list[_Telling]:
        """Choose how each fact is told; in the order in which they are, updates behind."""
        first, later = [], []
        for number, fact in enumerate(facts):
            templates = fact.templates
            plain = templates.statements if in_document else templates.turns
            if fact.old is None:
                first.append(_Telling(number, rng.choice(plain), fact, is_current=True))
                continue
            if rng.random() < _TOLD_TWICE:
                before = replace(fact, value=fact.old, old=None)
                first.append(_Telling(number, rng.choice(plain), before, is_current=False))
            update = rng.choice(templates.updates)
            later.append(_Telling(number, update, fact, is_current=True))
        rng.shuffle(first)
        rng.shuffle(later)
        return first + later

    def _document(self, rng: random.Random, tellings: list[_Telling], room: int) -> list[_Span]:
        """Cut a document, with facts between its sentences or lines."""
        characters = room * _CHARACTERS_PER_TOKEN
        if rng.random() < _REFERENCE:
            pieces = [[_Span(line)] for line in lines(self._corpus.extract(rng, characters))]
            after = ["\n"]
        else:
            text = self._corpus.passage(rng, characters)
            pieces = [[_Span(sentence)] for sentence in sentences(text)]
            after = [" ", " ", "\n"]
        places = sorted(rng.randint(0, len(pieces)) for _ in tellings)
        if tellings and rng.random() < _LISTED:
            places = [places[0]] * len(places)
        for place, telling in zip(reversed(places), reversed(tellings), strict=True):
            pieces.insert(place, [*telling.spans(), _Span(rng.choice(after))])
        return [span for piece in pieces for span in piece]

    def _dialogue(self, rng: random.Random, tellings: list[_Telling], room: int) -> list[Turn]:
        """Cut dialogues, in which users tell facts."""
        turns: list[Turn] = []
        while room > 0:
            for speaker, text in rng.choice(self._corpus.dialogues):
                if room > 0:
                    turns.append((_SPEAKERS.get(speaker, Role.USER), [_Span(text)]))
                    room -= len(text) // _CHARACTERS_PER_TOKEN + _FRAME_TOKENS
        places = sorted(rng.randrange(len(turns)) for _ in tellings)
        for place, telling in zip(reversed(places), reversed(tellings), strict=True):
            role, beside = turns[place]
            if role is Role.USER and rng.random() < 0.5:
                turns[place] = (role, [*beside, _Span(" "), *telling.spans()])
            else:
                turns[place:place] = self._told_in_turns(rng, telling)
        return turns

    def _conversation(self, rng: random.Random, tellings: list[_Telling]) -> list[Turn]:
        """Make a conversation of nothing but facts."""
        return [turn for telling in tellings for turn in self._told_in_turns(rng, telling)]

    def _told_in_turns(self, rng: random.Random, telling: _Telling) -> list[Turn]:
        turns: list[Turn] = [(Role.USER, telling.spans())]
        if rng.random() < _ACKNOWLEDGED:
            ack = replace(telling, template=rng.choice(self._voices.acks))
            turns.append((Role.ASSISTANT, ack.spans()))
        return turns

    def _ask(self, paper: _Paper, rng: random.Random, facts: list[Fact], *, framed: bool) -> None:
        titled = rng.random() < _TITLED
        for number in rng.sample(range(len(facts)), k=len(facts)):
            fact = facts[number]
            question, answer = rng.choice(fact.templates.questions)
            asked = question.format(who=fact.who, what=fact.what)
            reply = _filled(answer, fact, number, is_current=True)
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


def _filled(template: str, fact: Fact, number: int, *, is_current: bool) -> list[_Span]:
    """Fill a template, the value as a span of its own."""
    before, value, after = template.partition("{value}")
    fields = {"who": fact.who, "what": fact.what, "old": fact.old}
    return [
        _Span(before.format(**fields), number),
        _Span(fact.value if value else "", number, value=is_current),
        _Span(after.format(**fields), number),
    ]
