"""Everything that streams are worded with; the voices of training and of evaluation share nothing.

What they must not share: words, templates, and the wordings of relations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lalte.retrofit.relations import EVALUATION_RELATIONS, TRAINING_RELATIONS
from lalte.retrofit.templates import EVALUATION, TRAINING, Templates
from lalte.retrofit.words import EVALUATION_WORDS, TRAINING_WORDS

if TYPE_CHECKING:
    from lalte.retrofit.relations import Relation
    from lalte.retrofit.words import Words


@dataclass(frozen=True)
class Voices:
    """general: how a fact of any kind is told. relations: what people say of themselves.

    acks: what the assistant says when it has been told something, with {value} or without.
    """

    general: Templates
    relations: tuple[Relation, ...]
    words: Words
    acks: tuple[str, ...]


TRAINING_VOICES = Voices(
    TRAINING,
    TRAINING_RELATIONS,
    TRAINING_WORDS,
    (
        "Noted.",
        "Okay, I'll keep that in mind.",
        "Thanks for letting me know!",
        "Got it: {value}.",
        "I've written down {value}.",
        "{value}, understood. Anything else?",
        "Sure. What else can I do for you?",
        "All right, {value} it is.",
        "That's good to know.",
        "Interesting! Tell me more about {value}.",
    ),
)

EVALUATION_VOICES = Voices(
    EVALUATION,
    EVALUATION_RELATIONS,
    EVALUATION_WORDS,
    (
        "Thank you, I have it.",
        "I will remember {value}.",
        "Fine, that is stored. How can I help?",
        "Very well.",
        "So it is {value}. Good.",
    ),
)
