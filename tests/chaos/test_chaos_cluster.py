"""What killed primaries do not change: a short run; `make chaos-cluster` runs as long as told."""

import random
import shutil
import tempfile
from pathlib import Path

from chaos.cluster import run
from lalte.checkpoints.tiny import write_tiny_model


def test_nothing_acknowledged_is_lost_or_doubled_when_primaries_are_killed() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # noqa: T201
    folder = Path(tempfile.mkdtemp(prefix="mdc"))
    try:
        write_tiny_model(folder / "model")
        outcome, failovers = run(8, seed, sessions=4, folder=folder, model=folder / "model")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    assert outcome.good, [outcome.line, *outcome.wrong]
    assert failovers
    assert outcome.acts.total() > 4
