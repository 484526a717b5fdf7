"""Facts told in conversation, with their question: what the evaluation of sessions asks about.

Templates, relations and words are those of evaluation; nothing is trained on them. The caller
streams other dialogue between the tellings and the question.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from lalte.retrofit.facts import draw_fact, draw_personal_fact
from lalte.retrofit.voices import EVALUATION_VOICES
from lalte.text import Role

_PERSONAL = 0.75  # share of facts that people tell of themselves


@dataclass(frozen=True)
class ConversationalFact:
    """One fact: how it is told, and how it is asked for.

    about: facts with the same one contradict each other. tellings: each a few turns (role, text);
    where there are two, the second is an update. question: a user's turn. reply_begins: how a reply
    may begin, up to the value. value: what a right reply contains; old: what it was before the
    update, a wrong answer.
    """

    about: tuple[str, str]
    tellings: tuple[tuple[tuple[Role, str], ...], ...]
    question: str
    reply_begins: str
    value: str
    old: str | None


def conversational_fact(seed: int, index: int, *, superseded: bool) -> ConversationalFact:
    """Write fact `index` of `seed`: a function of its arguments."""
    # Text as a seed is hashed the same everywhere.
    rng = random.Random(f"conversational fact {seed} {index} {superseded}")  # noqa: S311  no secret
    draw = draw_personal_fact if rng.random() < _PERSONAL else draw_fact
    fact = draw(rng, EVALUATION_VOICES, updated=superseded)
    question, reply = rng.choice(fact.templates.questions)
    fields = {"who": fact.who, "what": fact.what, "old": fact.old}
    first = rng.choice(fact.templates.turns)
    told = [(first, fact.old if superseded else fact.value)]
    if superseded:
        told.append((rng.choice(fact.templates.updates), fact.value))
    tellings = []
    for template, value in told:
        said = (Role.USER, template.format(value=value, **fields))
        reply_to_it = (Role.ASSISTANT, rng.choice(EVALUATION_VOICES.acks).format(value=value))
        tellings.append((said, reply_to_it))
    begins = reply.partition("{value}")[0].format(**fields).strip()
    return ConversationalFact(
        fact.about, tuple(tellings), question.format(**fields), begins, fact.value, fact.old
    )
