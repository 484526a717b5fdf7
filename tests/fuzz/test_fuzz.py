"""What nobody meant is refused with a reason: a short run. `make fuzz` runs as many as told."""

import random
from collections import Counter

from fuzz.run import SHARES, run


def test_whatever_is_sent_or_stored_is_answered_or_refused_with_a_reason() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # noqa: T201
    ended: dict[str, Counter[str]] = {}
    total = run(3000, seed, lambda name, ends: ended.update({name: ends}))
    assert total >= 2900
    assert set(ended) == set(SHARES)
    assert ended["rpcs"]["answered"] > 0
    assert ended["scripts"]["OK"] > 0
    assert ended["states"]["taken"] > 0
    assert ended["files"]["taken, signed"] > 0
