"""What can go wrong in an evaluation and is not a bug."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class EvaluationError(Exception):
    """An evaluation that cannot be done. `what`: the file or option; `reason` says what to do."""

    def __init__(self, what: str | Path, reason: str) -> None:
        super().__init__(f"{what}: {reason}")
        self.what = str(what)
        self.reason = reason
