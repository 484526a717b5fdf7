"""Settings of a run as one YAML file: checked whole, every setting that does not fit named at once.

Used by what trains (`lalte.retrofit`, `lalte.train`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Section(BaseModel):
    """A part of such a file: frozen, and closed to names that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


Settings = TypeVar("Settings", bound=Section)


def read_settings(
    path: Path, kind: type[Settings], refusal: Callable[[Path, str], Exception]
) -> Settings:
    """Read `path` as a `kind`.

    Raises what `refusal` makes of the path and the reason: that it cannot be read, is not YAML, or
    which settings do not fit.
    """
    try:
        return kind.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise refusal(path, f"cannot be read: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise refusal(path, f"is not YAML: {error}") from error
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or 'the file'}: {e['msg']}" for e in error.errors()
        )
        raise refusal(path, f"does not fit: {problems}") from error
