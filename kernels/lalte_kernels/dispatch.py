"""Which of an op's implementations runs, and a log line when it is not the fast one."""

from __future__ import annotations

import logging
from functools import cache
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import torch

Op = TypeVar("Op")

_log = logging.getLogger(__name__)


def choose(name: str, device: torch.device, cpu: Op, reference: Op) -> Op:
    """Return the implementation of op `name` that runs on `device`."""
    if device.type == "cpu":
        return cpu
    _say_slow(name, device.type)
    return reference


@cache
def _say_slow(name: str, device_type: str) -> None:
    # Cached, so that it is said once per op and device and not once per call.
    _log.warning("%s runs its slow reference: it has no kernel for %s", name, device_type)
