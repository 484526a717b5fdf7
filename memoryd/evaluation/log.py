"""Results as JSON lines: one object a cell, appended when it is done."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

KEY = (
    "task",
    "length",
    "samples",
    "seed",
    "memory",
    "form",
    "model",
    "per_stream",
    "state_limit",
    "rows",
    "per_haystack",
    "positions",
)
"""What tells one cell from another."""
# Of cells that were measured before there was the choice.
_UNSAID = {"per_haystack": 1, "positions": ""}


class ResultsLog:
    """The cells of a file. Without a path nothing is remembered."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self.cells: list[dict[str, Any]] = []
        if path is not None and path.exists():
            lines = path.read_text().splitlines()
            self.cells = [_UNSAID | json.loads(line) for line in lines if line]

    def find(self, key: Mapping[str, object]) -> dict[str, Any] | None:
        """The newest cell with this key."""
        cell: dict[str, Any]
        for cell in reversed(self.cells):
            if all(cell.get(name) == key[name] for name in KEY):
                return cell
        return None

    def append(self, cell: dict[str, Any]) -> None:
        """Keep a cell; it is in the file when this returns."""
        self.cells.append(cell)
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(cell, ensure_ascii=False) + "\n")
