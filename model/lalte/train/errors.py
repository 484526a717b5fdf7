"""What can be wrong with a training run, for the person who started it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class TrainError(Exception):
    """A file or setting of a run does not fit.

    `subject` names it; `reason` says what is wrong and what would be right.
    """

    def __init__(self, subject: Path | str, reason: str) -> None:
        super().__init__(f"{subject}: {reason}")
        self.subject = subject
        self.reason = reason
