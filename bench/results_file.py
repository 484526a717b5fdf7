"""Results of a benchmark as JSON, with what it takes to understand them."""

import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("memoryd", "grpcio", "torch", "transformers")


def save(name: str, figures: object) -> None:
    """Writes bench/results/<name>.json: the command, the machine, the figures."""
    RESULTS.mkdir(exist_ok=True)
    run = {
        "command": " ".join(["python", f"bench/{name}.py", *sys.argv[1:]]),
        "date": datetime.now(UTC).date().isoformat(),
        "commit": _commit(),
        "machine": _machine(),
        "packages": {package: version(package) for package in PACKAGES},
        "figures": figures,
    }
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(run, indent=1) + "\n")
    print(f"written: {path}")


def _commit() -> str:
    run = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent,
    )
    return run.stdout.strip() or "unknown"


def _machine() -> str:
    names = {
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    }
    cores = len(os.sched_getaffinity(0))
    return f"{' / '.join(sorted(names))}, {cores} cores, Python {platform.python_version()}"
