"""What two sets of voices must not share, as comparable text."""

from __future__ import annotations

import string
from itertools import chain

from lalte.retrofit.voices import Voices


def all_templates(voices: Voices) -> set[str]:
    sets = [voices.general, *(relation.templates for relation in voices.relations)]
    told = (x.statements + x.turns + x.updates + tuple(chain(*x.questions)) for x in sets)
    return {*chain(*told), *voices.acks} - {"{value}"}


def shape_of(template: str) -> str:
    """What is left of a template without its fields, case and punctuation."""
    words = "".join(text for text, *_ in string.Formatter().parse(template)).lower()
    return " ".join("".join(c if c.isalnum() else " " for c in words).split())
