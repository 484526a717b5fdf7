"""Values that nobody meant, as a function of a random generator.

Plain generators and not strategies: a run wants a hundred thousand cases, and a strategy that
recurses takes ten milliseconds for each.
"""

import random
from typing import Any

import msgpack

EDGES = (0, 1, -1, 2, 7, 255, 2**31 - 1, 2**31, -(2**31), 2**32, 2**53, 2**62, 2**63 - 1, -(2**63))
CHARACTERS = "ab/:{}*%\\\"'\0\n\x7f\u0080éß記\u202e😀\uffff"


def octets(draw: random.Random, longest: int = 64) -> bytes:
    return draw.randbytes(draw.randrange(longest))


def text(draw: random.Random, longest: int = 12) -> str:
    return "".join(draw.choice(CHARACTERS) for _ in range(draw.randrange(longest)))


def number(draw: random.Random) -> int:
    return draw.choice(EDGES) if draw.random() < 0.7 else draw.getrandbits(draw.randrange(1, 72))


def real(draw: random.Random) -> float:
    edges = (0.0, -0.0, 1.0, -1.0, 0.5, 1e-45, 3e38, float("inf"), -float("inf"), float("nan"))
    return draw.choice(edges) if draw.random() < 0.7 else draw.uniform(-4, 4)


def scalar(draw: random.Random) -> Any:
    kinds = (octets, text, number, real, lambda _: None, lambda draw: draw.random() < 0.5)
    return draw.choice(kinds)(draw)


def tree(draw: random.Random, depth: int = 4) -> Any:
    """Lists, maps and scalars in one another."""
    kind = draw.random()
    if not depth or kind < 0.4:
        return scalar(draw)
    if kind < 0.7:
        return [tree(draw, depth - 1) for _ in range(draw.randrange(6))]
    return {text(draw): tree(draw, depth - 1) for _ in range(draw.randrange(6))}


def packed(value: Any) -> bytes:
    """msgpack of a value; what msgpack cannot hold becomes noise instead."""
    try:
        return bytes(msgpack.packb(value))
    except (OverflowError, ValueError):
        return repr(value).encode()
