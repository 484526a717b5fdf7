"""What chaos does not change: a short run. `make chaos` runs as long as it is told to."""

import random
import shutil
import tempfile
from pathlib import Path

from chaos.run import Plan, run
from harness.redis_servers import server_binaries
from lalte.checkpoints.tiny import write_tiny_model


def test_nothing_acknowledged_is_lost_or_doubled_whatever_fails() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # noqa: T201
    plan = Plan(seconds=15, seed=seed, sessions=8, daemons=2, pause=1.0, act_pause=0.3)
    folder = Path(tempfile.mkdtemp(prefix="mdc"))
    try:
        write_tiny_model(folder / "model")
        binary = server_binaries()["valkey"]
        outcome = run(plan, folder=folder, model=folder / "model", binary=binary)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    assert outcome.good, [outcome.line, *outcome.wrong]
    assert outcome.faults.total() > 0
    assert outcome.acts.total() > plan.sessions
