"""docs/operations.md names every setting and every metric."""

import re
from pathlib import Path

from memoryd.config import Settings
from memoryd.engine.messages import EngineStats
from memoryd.metrics import Metrics, Snapshot

PAGE = (Path(__file__).parents[1] / "docs" / "operations.md").read_text()
ROWS = "\n".join(line.split("|")[1] for line in PAGE.splitlines() if line.startswith("| "))


def test_every_setting_stands_in_the_table():
    missing = {name for name in Settings.model_fields if not re.search(rf"\b{name}\b", ROWS)}
    assert not missing


def test_every_metric_stands_in_the_table_and_no_other():
    metrics = Metrics()
    stats = EngineStats(0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
    metrics.watch(lambda: Snapshot(stats, {}, {}, replies=0, draining=False))
    names = {
        family.name + ("_total" if family.type == "counter" else "")
        for family in metrics.registry.collect()
        if family.name.startswith("memoryd_")
    }
    assert set(re.findall(r"\bmemoryd_\w+", ROWS)) == names
