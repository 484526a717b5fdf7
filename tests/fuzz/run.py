"""All targets, each with its share of the cases."""

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from fuzz.daemon import rpcs
from fuzz.files import Files
from fuzz.protocol import Scripts
from fuzz.stored import Records, States
from fuzz.targets import Target, fuzz
from harness.redis_servers import RedisProcess, server_binaries
from lalte.checkpoints.tiny import write_tiny_model

SHARES = {"states": 0.25, "records": 0.2, "files": 0.2, "rpcs": 0.2, "scripts": 0.15}
"""Of all cases: a call costs some thirty times what a decoder does."""


def run(cases: int, seed: int, tell: Callable[[str, Counter[str]], None]) -> int:
    """Runs so many cases in all and tells of each target how they ended; gives their number."""
    total = 0
    with tempfile.TemporaryDirectory(prefix="mdf") as folder, _targets(Path(folder)) as targets:
        for target in targets:
            ends = fuzz(target, round(cases * SHARES[target.name]), seed)
            total += ends.total()
            tell(target.name, ends)
    return total


@contextmanager
def _targets(folder: Path) -> Iterator[list[Target]]:
    model = folder / "model"
    write_tiny_model(model)
    server = RedisProcess(folder / "r", server_binaries()["valkey"], appendonly="no")
    try:
        with rpcs(folder / "d", model) as calls:
            scripts = Scripts(server.raw)
            yield [States(), Records(), Files(), calls, scripts]
            scripts.check()
    finally:
        server.kill()
