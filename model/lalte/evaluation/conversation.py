"""Facts that a user mentions in passing, asked for after thousands of tokens of other dialogue.

Facts, templates and dialogues are of the half that nothing was trained on. Facts come early in the
stream; each may later be superseded, and then only the newest value is right.
"""

from __future__ import annotations

import random
from itertools import count
from typing import TYPE_CHECKING

from lalte.evaluation.samples import Question, Sample, Told
from lalte.retrofit.conversation import conversational_fact
from lalte.text import Role

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lalte.retrofit.conversation import ConversationalFact
    from lalte.retrofit.corpus import Corpus
    from lalte.text import Tokenizer

_SPEAKERS = {"user": Role.USER, "system": Role.ASSISTANT}
_FRAME_TOKENS = 6  # around a turn, about
_BEFORE_TOKENS = 150  # of dialogue before the first fact
_BETWEEN_TOKENS = 40  # of dialogue between tellings
_REPLY_TOKENS = 64
_FACTS_APART = 1000  # numbers of facts between one stream's and the next one's


def write_conversation(
    corpus: Corpus,
    tokenizer: Tokenizer,
    distance: int,
    seed: int,
    index: int,
    facts: int,
    *,
    superseded: bool,
) -> Sample:
    """Write a dialogue of `distance` tokens between the last telling and the questions.

    superseded: each fact is told with an old value, and later with the one that counts.
    """
    # The facts are the same at every distance.
    drawn = _facts(seed, index, facts, superseded=superseded)
    rng = random.Random(f"conversation {distance} {seed} {index} {facts}")  # noqa: S311
    dialogue = _dialogue(corpus, rng)
    turns = _take(dialogue, tokenizer, _BEFORE_TOKENS)
    for number in range(len(drawn[0].tellings)):
        for fact in drawn:
            turns += _take(dialogue, tokenizer, _BETWEEN_TOKENS)
            turns += [Told(role, text) for role, text in fact.tellings[number]]
    turns += _take(dialogue, tokenizer, distance)
    return Sample(tuple(turns), tuple(_asked(fact) for fact in drawn))


def _facts(seed: int, index: int, wanted: int, *, superseded: bool) -> list[ConversationalFact]:
    """Facts about different things."""
    facts: dict[tuple[str, str], ConversationalFact] = {}
    for number in count(index * _FACTS_APART):
        fact = conversational_fact(seed, number, superseded=superseded)
        if fact.value != fact.old:
            facts.setdefault(fact.about, fact)
        if len(facts) == wanted:
            break
    return list(facts.values())


def _asked(fact: ConversationalFact) -> Question:
    return Question(
        fact.question,
        prefix=fact.reply_begins,
        raw=False,
        answers=(fact.value,),
        outdated=fact.old or "",
        max_tokens=_REPLY_TOKENS,
    )


def _dialogue(corpus: Corpus, rng: random.Random) -> Iterator[Told]:
    """Turns of one random dialogue after the other, without end."""
    while True:
        for speaker, text in rng.choice(corpus.dialogues):
            yield Told(_SPEAKERS.get(speaker, Role.USER), text)


def _take(dialogue: Iterator[Told], tokenizer: Tokenizer, tokens: int) -> list[Told]:
    """The next turns, of so many tokens or just above."""
    turns = []
    while tokens > 0:
        turn = next(dialogue)
        turns.append(turn)
        tokens -= len(tokenizer.encode_plain(turn.text)) + _FRAME_TOKENS
    return turns
