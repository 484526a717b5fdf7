"""Invented facts: who has what, and a value that only memory can know.

Values come in many shapes, because an identifier that is cut in the middle is worth nothing and
each shape is cut in its own way. All draws come from the generator that is handed in.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random

    from lalte.retrofit.templates import Templates
    from lalte.retrofit.voices import Voices
    from lalte.retrofit.words import Words

_MONTHS = (
    *("January", "February", "March", "April", "May", "June", "July", "August", "September"),
    *("October", "November", "December"),
)
_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_HOSTS = ("mailbox.org", "example.com", "post.net", "inbox.io")

_NUMBER_THINGS = (
    "locker number|account number|room number|serial number|badge number|membership number|"
    "ticket number|lot number|secret number|registration number|lucky number|file number"
)
_CODE_THINGS = (
    "access code|order code|booking reference|gate code|license key|tracking code|password|"
    "confirmation code|pass phrase token|part code"
)
_LONG_THINGS = (
    "device id|session id|uuid|transaction id|fingerprint|api key|commit hash|request id|"
    "unique identifier|encryption key"
)

Shape = Callable[["random.Random", "Words"], str]


@dataclass(frozen=True)
class Fact:
    """`what` of `who` is `value`, and how it can be told and asked for.

    old: what it was before, where it was changed. Facts of a relation have no `what`, and where
    their speaker tells them of himself no `who`.
    """

    who: str
    what: str
    value: str
    templates: Templates
    old: str | None = None

    @property
    def about(self) -> tuple[str, str]:
        """What it is about: two facts about the same would contradict each other."""
        return self.who, self.what or self.templates.questions[0][0]


def draw_fact(rng: random.Random, voices: Voices, *, updated: bool, who: str = "") -> Fact:
    """Draw one fact of the general kind; an updated one has two values of one shape.

    who: whose it is; somebody of the generator's choice without it.
    """
    things, shape = rng.choices(_SHAPES, weights=_WEIGHTS)[0]
    who = who or draw_who(rng, voices.words)
    what = rng.choice(things.split("|"))
    fact = Fact(who, what, shape(rng, voices.words), voices.general)
    return _updated(rng, fact, shape, voices) if updated else fact


def draw_personal_fact(rng: random.Random, voices: Voices, *, updated: bool) -> Fact:
    """Draw what a person says of himself or of somebody near to him."""
    relation = rng.choice(voices.relations)
    who = rng.choice(relation.whose) if relation.whose else ""
    fact = Fact(who, "", relation.shape(rng, voices.words), relation.templates)
    return _updated(rng, fact, relation.shape, voices) if updated else fact


def _updated(rng: random.Random, fact: Fact, shape: Shape, voices: Voices) -> Fact:
    old = fact.value
    while old in fact.value or fact.value in old:
        old = shape(rng, voices.words)
    return replace(fact, old=old)


def draw_who(rng: random.Random, words: Words) -> str:
    """Draw a person or a thing that facts can be about."""
    adjective, noun = rng.choice(words.adjectives), rng.choice(words.nouns)
    return rng.choice(
        [
            person(rng, words),
            person(rng, words),
            rng.choice(words.first),
            f"{adjective}-{noun}",
            f"{adjective}-{noun}",
            f"project {noun.capitalize()}",
            f"the {adjective} {noun}",
            f"unit {rng.randrange(2, 99)}",
        ]
    )


def _digits(rng: random.Random, count: int) -> str:
    return str(rng.randrange(1, 10)) + "".join(rng.choices("0123456789", k=count - 1))


def number(rng: random.Random, _: Words) -> str:
    """4 to 10 digits."""
    return _digits(rng, rng.randrange(4, 11))


def _grouped_number(rng: random.Random, _: Words) -> str:
    return rng.choice(
        [
            f"{rng.randrange(10_000, 10_000_000):,}",
            f"{rng.randrange(10, 10_000)}.{_digits(rng, 2)}",
            "-".join(_digits(rng, 4) for _ in range(rng.randrange(2, 5))),
        ]
    )


def phone(rng: random.Random, _: Words) -> str:
    """A telephone number."""
    return rng.choice(
        [
            f"+{_digits(rng, 2)} {_digits(rng, 3)} {_digits(rng, 4)}",
            f"{_digits(rng, 3)}-{_digits(rng, 3)}-{_digits(rng, 4)}",
            f"0{_digits(rng, 3)} {_digits(rng, 6)}",
        ]
    )


def _uuid(rng: random.Random, _: Words) -> str:
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))


def _hex(rng: random.Random, _: Words) -> str:
    text = "".join(rng.choices("0123456789abcdef", k=rng.choice([8, 12, 16, 24, 32, 40])))
    return rng.choice([text, text.upper(), f"0x{text}"])


def code(rng: random.Random, _: Words) -> str:
    """Capitals and digits, in up to four groups."""
    letters = "ABCDEFGHJKLMNPQRSTUVWXYZ"
    parts = [
        "".join(rng.choices(rng.choice([letters, letters + "0123456789"]), k=rng.randrange(2, 6)))
        for _ in range(rng.randrange(1, 4))
    ]
    return rng.choice(["-", "", "/"]).join([*parts, _digits(rng, rng.randrange(2, 5))])


def date(rng: random.Random, _: Words) -> str:
    """A day of a year, in one of several notations."""
    month, day = rng.randrange(12), rng.randrange(1, 29)
    year = rng.randrange(1890, 2090)
    return rng.choice(
        [
            f"{_MONTHS[month]} {day}, {year}",
            f"{day} {_MONTHS[month]} {year}",
            f"{year}-{month + 1:02}-{day:02}",
            f"{_MONTHS[month]} {day} at {clock(rng)}",
        ]
    )


def day(rng: random.Random, _: Words) -> str:
    """A day of the year without the year, or a weekday with the hour."""
    return rng.choice(
        [
            f"{rng.choice(_MONTHS)} {rng.randrange(1, 29)}",
            f"{rng.randrange(1, 29)} {rng.choice(_MONTHS)}",
            f"{rng.choice(_WEEKDAYS)} at {clock(rng)}",
        ]
    )


def clock(rng: random.Random, _: Words | None = None) -> str:
    """A time of day."""
    hour, minute = rng.randrange(1, 12), rng.choice([0, 5, 10, 15, 20, 30, 40, 45, 50])
    return rng.choice([f"{hour}:{minute:02} pm", f"{hour}:{minute:02} am", f"{hour} o'clock"])


def amount(rng: random.Random, _: Words) -> str:
    """Money."""
    cents = rng.randrange(100, 1_000_000)
    return rng.choice([f"${cents:,}", f"{cents / 100:.2f} euros", f"£{cents}"])


def size(rng: random.Random, _: Words) -> str:
    """A weight or a length."""
    return f"{rng.randrange(30, 2000)} {rng.choice(['kg', 'cm', 'metres', 'pounds', 'miles'])}"


def small_number(rng: random.Random, _: Words) -> str:
    """A count or an age, of two digits."""
    return str(rng.randrange(11, 99))


def person(rng: random.Random, words: Words) -> str:
    """First and last name."""
    return f"{rng.choice(words.first)} {rng.choice(words.last)}"


def address(rng: random.Random, words: Words) -> str:
    """House number and street."""
    return f"{rng.randrange(2, 240)} {rng.choice(words.streets)}"


def mail(rng: random.Random, words: Words) -> str:
    """An e-mail address."""
    name = f"{rng.choice(words.first)}.{rng.choice(words.last)}".lower()
    return f"{name}{rng.choice(['', str(rng.randrange(2, 99))])}@{rng.choice(_HOSTS)}"


def thing(rng: random.Random, words: Words) -> str:
    """An adjective and a noun."""
    return f"{rng.choice(words.adjectives)} {rng.choice(words.nouns)}"


def one_of(pool: str) -> Shape:
    """Make the shape that draws from one of the pools of `Words`."""
    return lambda rng, words: str(rng.choice(getattr(words, pool)))


def _plain_word(rng: random.Random, words: Words) -> str:
    return rng.choice([*words.colours, *words.cities, thing(rng, words)])


def quote(rng: random.Random, words: Words) -> str:
    """Words that make no sentence anybody has written."""
    return " ".join(rng.sample(words.oath, k=rng.randrange(4, 10)))


_SHAPES: tuple[tuple[str, Shape], ...] = (
    (_NUMBER_THINGS, number),
    (_NUMBER_THINGS, _grouped_number),
    ("telephone number|extension|fax number|hotline", phone),
    (_LONG_THINGS, _uuid),
    (_LONG_THINGS, _hex),
    (_CODE_THINGS, code),
    ("birthday|date of arrival|deadline|founding date|appointment", date),
    ("price|debt|balance|monthly rent|ransom|fee", amount),
    ("weight|height|length|distance", size),
    ("godfather|physician|best friend|landlord|rival|successor", person),
    ("favourite colour|home town|hiding place|code name|meeting point", _plain_word),
    ("motto|last message|oath|inscription|secret phrase", quote),
)
_WEIGHTS = (4, 2, 1, 4, 2, 2, 1, 1, 1, 2, 2, 1)
