"""The demo runs from end to end, here with a model whose answers mean nothing."""

import re
import subprocess
import sys
from pathlib import Path

from lalte.checkpoints.tiny import write_tiny_model

DEMO = Path(__file__).parents[2] / "examples" / "demo.py"


def test_demo_survives_the_kill_and_shows_its_figures(tmp_path: Path) -> None:
    model = tmp_path / "tiny"
    write_tiny_model(model, seed=0)
    run = subprocess.run(
        [sys.executable, DEMO, "--model", model, "--characters", "12000"],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    said = " ".join(run.stdout.split())
    before = re.search(r"SIGKILL\. ([\d,]+) tokens were acknowledged", said)
    after = re.search(r"It answers after \d+ s; ([\d,]+) tokens are there", said)
    assert before
    assert after
    assert int(after[1].replace(",", "")) >= int(before[1].replace(",", "")) > 0
    assert "What is my sister's dog called?" in said
    assert "wrong: 'Pepper' is not in it" in said  # what the model gets wrong is shown
    assert "Figures of this run" in said
    assert "ended with status 0" in said
