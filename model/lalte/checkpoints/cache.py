"""Where pulled models and downloads live: the user's cache folder, as the platform defines it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import platformdirs

if TYPE_CHECKING:
    from pathlib import Path

DEFAULT_MODEL = "smollm2-135m-lalte"


def default_cache_dir() -> Path:
    """Return the folder that holds pulled models."""
    return platformdirs.user_cache_path("memoryd") / "models"


def default_download_dir() -> Path:
    """Return where files of the Hugging Face hub lie until they are converted."""
    return platformdirs.user_cache_path("memoryd") / "downloads"


def default_model_dir() -> Path:
    """Return where `memoryd model pull` puts the default model unless told otherwise."""
    return default_cache_dir() / DEFAULT_MODEL
