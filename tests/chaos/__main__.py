"""`python -m chaos --seconds N --seed N`: prints its seed, what happened, and the one line."""

# ruff: noqa: T201  (a command line speaks by printing)

import argparse
import random
import shutil
import sys
import tempfile
from pathlib import Path

from chaos.run import Plan, run
from harness.redis_servers import server_binaries
from lalte.checkpoints.tiny import write_tiny_model


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    parser.add_argument("--keep", action="store_true", help="keep the processes' logs")
    given = parser.parse_args()
    plan = Plan(seconds=given.seconds, seed=given.seed)
    print(f"seed {plan.seed}", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="mdc"))
    try:
        write_tiny_model(folder / "model")
        outcome = run(
            plan, folder=folder, model=folder / "model", binary=server_binaries()["valkey"]
        )
    finally:
        if given.keep:
            print(f"logs in {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    print(
        f"{plan.sessions} sessions, {plan.daemons} daemons, {plan.seconds:g} s, "
        f"{outcome.tokens} tokens"
    )
    for what, counts in (("acts", outcome.acts), ("faults", outcome.faults)):
        print(f"{what}: {', '.join(f'{counts[kind]} {kind}' for kind in sorted(counts))}")
    for line in outcome.wrong:
        print(f"wrong: {line}")
    print(outcome.line)
    return 0 if outcome.good else 1


if __name__ == "__main__":
    sys.exit(main())
