"""What a fuzz target is, and how many cases of it are run."""

import random
from collections import Counter
from typing import Any, Protocol

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st


class Target(Protocol):
    """Something that reads what others wrote."""

    name: str

    def draw(self, draw: random.Random) -> Any:
        """A case, as a function of the generator."""
        ...

    def run(self, case: Any) -> str:
        """How the case ended, by name; an exception is a failure."""
        ...


def fuzz(target: Target, cases: int, start: int) -> Counter[str]:
    """Runs so many cases; how they ended. start: the seed. Raises what a case raised."""
    ends: Counter[str] = Counter()

    def one(number: int) -> None:
        ends[target.run(target.draw(random.Random(number)))] += 1

    chosen = settings(
        max_examples=cases,
        deadline=None,
        database=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate,),
    )
    seed(start)(chosen(given(number=st.integers(0, 2**64 - 1))(one)))()
    return ends
