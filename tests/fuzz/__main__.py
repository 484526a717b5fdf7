"""`python -m fuzz --cases N --seed N`: prints its seed, and how the cases of each target ended."""

# ruff: noqa: T201  (a command line speaks by printing)

import argparse
import random
import sys
from collections import Counter

from fuzz.run import run


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    given = parser.parse_args()
    print(f"seed {given.seed}", flush=True)
    total = run(given.cases, given.seed, _tell)
    print(f"cases {total}, failures 0")
    return 0


def _tell(name: str, ends: Counter[str]) -> None:
    found = ", ".join(f"{count} {end}" for end, count in sorted(ends.items()))
    print(f"{name}: {ends.total()} cases: {found}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
