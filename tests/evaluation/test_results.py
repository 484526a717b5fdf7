"""`make results`: the plan is run cell by cell and goes on where it was; the page shows what is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import yaml

BENCH = Path(__file__).parents[2] / "bench"
PLAN = {
    "seed": 3,
    "groups": [
        {
            "task": "mqar",
            "lengths": [64],
            "samples": 4,
            "per_stream": 2,
            "memories": ["own", "full"],
        },
        {"task": "single_2", "lengths": [400], "samples": 2, "memories": ["own", "window"]},
        {"task": "single_2", "lengths": [600], "samples": 2, "memories": ["own"], "model": "other"},
        {
            "task": "single_2",
            "lengths": [400],
            "samples": 2,
            "memories": ["own"],
            "model": "third",
            "state_limit": "same",
        },
        {"task": "perplexity", "lengths": [2048], "samples": 1, "memories": ["own", "full"]},
        {
            "task": "perplexity",
            "lengths": [2048],
            "samples": 1,
            "memories": ["own"],
            "positions": "absolute",
        },
    ],
}


def run(*options: object) -> str:
    command = [sys.executable, BENCH / "results.py", "--threads", "1", *map(str, options)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_plan_is_measured_once_and_shown(folder: Path, data: Path, tmp_path: Path):
    plan, log = tmp_path / "plan.yaml", tmp_path / "new" / "memory.jsonl"
    plan.write_text(yaml.safe_dump(PLAN))
    options = ("--plan", plan, "--log", log, "--model", f"default={folder}")
    options += ("--model", f"third={folder}")
    said = run(*options, "--data", data, "--only", "mqar")
    assert "mqar 64 own" in said
    assert len(log.read_text().splitlines()) == 2

    said = run(*options, "--data", data)
    assert "left out: single_2 of other; give --model other=FOLDER" in said
    cells = [json.loads(line) for line in log.read_text().splitlines()]
    assert [(cell["task"], cell["length"], cell["memory"]) for cell in cells] == [
        ("mqar", 64, "own"),
        ("mqar", 64, "full"),
        ("single_2", 400, "own"),
        ("single_2", 400, "window"),
        ("single_2", 400, "third"),
        ("perplexity", 2048, "own"),
        ("perplexity", 2048, "full"),
        ("perplexity", 2048, "positions_absolute"),
    ]
    page = log.with_suffix(".md").read_text()
    for cell in cells[2:5]:
        low, high = cell["ci95"]
        assert f"{cell['right']}/{cell['asked']} ({low:.2f}-{high:.2f})" in page
    assert f"{cells[5]['perplexity'] / cells[6]['perplexity']:.3f}" in page
    assert "--memory window" in page
    assert f"| absolute | {cells[7]['blocks'][0]['perplexity']:.2f} |" in page
    assert "--positions absolute --label positions_absolute" in page
    assert "not measured" in page
    pictures = sorted(file.name for file in log.parent.glob("*.svg"))
    assert all(f"]({name})" in page for name in pictures)
    assert [name.partition("-")[2] for name in pictures] == ["depth.svg", "heads.svg", "length.svg"]
    before = {file: file.read_bytes() for file in log.parent.iterdir()}

    run(*options, "--data", data)
    assert {file: file.read_bytes() for file in log.parent.iterdir()} == before
    run(*options)  # without texts: the page alone
    assert {file: file.read_bytes() for file in log.parent.iterdir()} == before


def test_the_shipped_plan_names_tasks_and_memories_that_there_are():
    from lalte.evaluation.tasks import TASKS
    from lalte.evaluation.variants import BASELINES
    from memoryd.evaluation.cells import FRESH

    plan = yaml.safe_load((BENCH.parent / "docs" / "results" / "plan.yaml").read_text())
    for group in plan["groups"]:
        assert group["task"] in TASKS
        of_perplexity = {FRESH} if group["task"] == "perplexity" else set()
        assert set(group["memories"]) <= {"own", *BASELINES} | of_perplexity


def test_targets_are_judged_by_their_bounds(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCH))
    from memory_targets import targets

    def cell(accuracy: float) -> dict:
        return {"accuracy": accuracy, "state_bytes": 9_000_000, "perplexity": 1.0, "blocks": []}

    measured = {("single_1", "own", 1024): cell(0.95), ("single_1", "own", 2048): cell(0.94)}
    measured |= {("single_1", "own", 8192): cell(0.3), ("single_1", "full", 8192): cell(0.35)}
    measured |= {("facts", "own", 2048): cell(0.4), ("facts", "full", 2048): cell(0.5)}
    measured |= {("superseded", "own", 2048): cell(0.49), ("superseded", "full", 2048): cell(0.5)}
    measured |= {("perplexity", m, 2048): cell(0) | {"perplexity": p} for m, p in PERPLEXITIES}
    found = {target.what: target.verdict for target in targets(lambda *key: measured.get(key))}
    assert found["single_1 at 1,024"] == "reached"
    assert found["single_1 at 2,048"] == "**missed**"
    assert found["single_1 at 4,096"] == "not measured"
    assert found["single_1 at 8,192"] == "reached"
    assert found["single_2 at 8,192"] == "not measured"
    assert found["facts at 2,048"] == "reached"
    assert found["superseded at 2,048"] == "**missed**"
    assert found["state, MB"] == "reached"
    assert found["perplexity at 2,048 to the teacher's"] == "reached"
    assert found["perplexity at 2,048 to GDN layers' at window 64"] == "**missed**"
    # Five points under the best teacher are 0.95.
    for accuracy, verdict in ((0.95, "reached"), (0.94, "not measured")):
        measured["single_2", "own", 8192] = cell(accuracy)
        found = {target.what: target.verdict for target in targets(lambda *key: measured.get(key))}
        assert found["single_2 at 8,192"] == verdict


PERPLEXITIES = (("own", 10.8), ("full", 10.0), ("local", 10.8))
