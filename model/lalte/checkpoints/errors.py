"""The errors of reading, converting and loading checkpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class CheckpointError(Exception):
    """A checkpoint or model folder cannot be used: `path` and the `reason`."""

    def __init__(self, path: Path | str, reason: str) -> None:
        self.path = str(path)
        self.reason = reason
        super().__init__(f"{path}: {reason}")


class ModelNotFound(CheckpointError):
    """There is no model in the folder."""

    def __init__(self, path: Path | str) -> None:
        super().__init__(path, "there is no model here; run `memoryd model pull`")


class PullError(CheckpointError):
    """A download failed or is not what was expected."""
