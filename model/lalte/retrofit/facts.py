"""Invented facts: who has what, and a value that only memory can know.

Values come in many shapes, because an identifier that is cut in the middle is worth nothing and
each shape is cut in its own way. All draws come from the generator that is handed in.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Callable


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_FIRST = _words(
    "Mara Tobias Ines Leopold Yusuf Greta Anselm Priya Odile Marcus Hanna Rufus Celia Dmitri Noor "
    "Felix Imogen Pablo Sunniva Walter Zora Edmund Keiko Lionel Beatrix Omar Thea Jasper Rosalind "
    "Viktor Amara Silas Petra Hugo Nadia Caspian Elspeth Ravi Juno Barnaby"
)
_LAST = _words(
    "Quill Okafor Lindqvist Marlowe Abernathy Castellan Vance Hargreave Novak Tremaine Iyer "
    "Fairweather Duarte Brandt Holloway Petrov Ashdown Kimura Delacroix Winslow Rahman Stroud "
    "Falk Merriweather Sandoval Oduya Thorne Bexley Zielinski Crane"
)
_ADJECTIVES = _words(
    "quiet amber crooked velvet northern hollow gilded brisk faded lunar copper ragged solemn "
    "tidal emerald frozen dusty nimble scarlet drowsy polished wandering bitter violet ancient"
)
_NOUNS = _words(
    "harbor lantern kettle orchard compass meadow falcon thimble anchor cinder ladder marble "
    "willow trumpet barrel saddle beacon garden pebble turbine cathedral violin tractor glacier"
)
_CITIES = _words(
    "Lisbon Tromso Kyoto Valparaiso Leeds Gdansk Nairobi Bergen Marseille Tbilisi Quito Halifax "
    "Antwerp Izmir Porto Riga Cardiff Lucknow Oaxaca Turku"
)
_COLOURS = _words("teal ochre maroon indigo ivory crimson olive turquoise mauve charcoal")
_MONTHS = _words(
    "January February March April May June July August September October November December"
)
_OATH = _words(
    "river stone never sleeps under seven bridges while patient foxes carry letters toward winter "
    "and every clock forgets its oldest hour before the tide returns our borrowed light"
)

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


@dataclass(frozen=True)
class Fact:
    """`what` of `who` is `value`; `old` is what it was before, where it was changed."""

    who: str
    what: str
    value: str
    old: str | None = None


def draw_fact(rng: random.Random, *, updated: bool) -> Fact:
    """Draw one fact; an updated one has two values of one shape."""
    things, shape = rng.choices(_SHAPES, weights=_WEIGHTS)[0]
    who, what = _who(rng), rng.choice(things.split("|"))
    value = shape(rng)
    return Fact(who, what, value, shape(rng) if updated else None)


def _who(rng: random.Random) -> str:
    adjective, noun = rng.choice(_ADJECTIVES), rng.choice(_NOUNS)
    person = f"{rng.choice(_FIRST)} {rng.choice(_LAST)}"
    return rng.choice(
        [
            person,
            person,
            rng.choice(_FIRST),
            f"{adjective}-{noun}",
            f"{adjective}-{noun}",
            f"project {noun.capitalize()}",
            f"the {adjective} {noun}",
            f"unit {rng.randrange(2, 99)}",
        ]
    )


def _digits(rng: random.Random, count: int) -> str:
    return str(rng.randrange(1, 10)) + "".join(rng.choices("0123456789", k=count - 1))


def _number(rng: random.Random) -> str:
    return _digits(rng, rng.randrange(4, 11))


def _grouped_number(rng: random.Random) -> str:
    return rng.choice(
        [
            f"{rng.randrange(10_000, 10_000_000):,}",
            f"{rng.randrange(10, 10_000)}.{_digits(rng, 2)}",
            "-".join(_digits(rng, 4) for _ in range(rng.randrange(2, 5))),
            f"+{_digits(rng, 2)} {_digits(rng, 3)} {_digits(rng, 4)}",
        ]
    )


def _uuid(rng: random.Random) -> str:
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))


def _hex(rng: random.Random) -> str:
    text = "".join(rng.choices("0123456789abcdef", k=rng.choice([8, 12, 16, 24, 32, 40])))
    return rng.choice([text, text.upper(), f"0x{text}"])


def _code(rng: random.Random) -> str:
    letters = "ABCDEFGHJKLMNPQRSTUVWXYZ"
    parts = [
        "".join(rng.choices(rng.choice([letters, letters + "0123456789"]), k=rng.randrange(2, 6)))
        for _ in range(rng.randrange(1, 4))
    ]
    return rng.choice(["-", "", "/"]).join([*parts, _digits(rng, rng.randrange(2, 5))])


def _date(rng: random.Random) -> str:
    month, day = rng.randrange(12), rng.randrange(1, 29)
    year = rng.randrange(1890, 2090)
    return rng.choice(
        [
            f"{_MONTHS[month]} {day}, {year}",
            f"{day} {_MONTHS[month]} {year}",
            f"{year}-{month + 1:02}-{day:02}",
            f"{_MONTHS[month]} {day} at {rng.randrange(1, 12)}:{rng.randrange(60):02} pm",
        ]
    )


def _amount(rng: random.Random) -> str:
    amount = rng.randrange(100, 1_000_000)
    return rng.choice([f"${amount:,}", f"{amount / 100:.2f} euros", f"£{amount}", f"{amount} kg"])


def _person(rng: random.Random) -> str:
    return f"{rng.choice(_FIRST)} {rng.choice(_LAST)}"


def _plain_word(rng: random.Random) -> str:
    return rng.choice([*_COLOURS, *_CITIES, f"{rng.choice(_ADJECTIVES)} {rng.choice(_NOUNS)}"])


def _quote(rng: random.Random) -> str:
    return " ".join(rng.sample(_OATH, k=rng.randrange(4, 10)))


_SHAPES: tuple[tuple[str, Callable[[random.Random], str]], ...] = (
    (_NUMBER_THINGS, _number),
    (_NUMBER_THINGS, _grouped_number),
    (_LONG_THINGS, _uuid),
    (_LONG_THINGS, _hex),
    (_CODE_THINGS, _code),
    ("birthday|date of arrival|deadline|founding date|appointment", _date),
    ("price|debt|balance|weight|monthly rent|ransom", _amount),
    ("godfather|physician|best friend|landlord|rival|successor", _person),
    ("favourite colour|home town|hiding place|code name|meeting point", _plain_word),
    ("motto|last message|oath|inscription|secret phrase", _quote),
)
_WEIGHTS = (4, 2, 4, 2, 2, 1, 1, 1, 1, 1)
