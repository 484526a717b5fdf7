"""Which of an op's implementations runs: chosen by the tensors' device, and explained.

On CPUs it is `cpu.py`. On NVIDIA GPUs an op names modules beside it in order of preference: `fla`
(flash-linear-attention's kernel behind our signature), then `triton` (ours). Each is used where it
can be imported and does not refuse the arguments; where none is left, plain torch runs. The first
call that takes a road says so in one log line, and `memoryd doctor` lists the choices.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Generic, Literal, ParamSpec, TypeVar

import torch

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

P = ParamSpec("P")
R = TypeVar("R")

_log = logging.getLogger(__name__)

Accelerated = Literal["fla", "triton"]

PACKAGES: dict[Accelerated, str] = {"fla": "flash-linear-attention", "triton": "triton"}
"""What is to be installed for each kind of module."""


@dataclass(frozen=True)
class Choice:
    """What runs an op on a kind of device. implementation: a module's name, as in `reason`."""

    op: str
    implementation: str
    reason: str


@dataclass(frozen=True)
class Op(Generic[P, R]):
    """An operation and its implementations, all of one signature.

    gpu: modules of the op's folder that have kernels for NVIDIA GPUs, best first. Each holds a
    function of the op's name and `refusal`, which takes the same arguments and returns why it
    cannot run them, or None. portable: whether `cpu` is plain torch that any device can run.
    """

    name: str
    reference: Callable[P, R]
    cpu: Callable[P, R]
    gpu: tuple[Accelerated, ...] = ()
    portable: bool = False

    def run(self, device: torch.device, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the op on tensors that lie on `device`."""
        if device.type == "cpu":
            return self.cpu(*args, **kwargs)
        refused: list[str] = []
        for kind in self._candidates(device.type):
            module = self._module(kind)
            why_not = module.refusal(*args, **kwargs)
            if why_not is None:
                _say(self.name, device.type, kind, "; ".join(refused))
                function: Callable[P, R] = getattr(module, self.name)
                # Kernels start on the current device, whichever their tensors lie on.
                with torch.cuda.device(device):
                    return function(*args, **kwargs)
            refused.append(f"{kind} refused: {why_not}")
        name, function = self._plain()
        _say(self.name, device.type, name, "; ".join(refused) or self._why_plain(device.type))
        return function(*args, **kwargs)

    def choice(self, device_type: str) -> Choice:
        """Say what runs this op on such a device, for arguments that nothing refuses."""
        if device_type == "cpu":
            return Choice(self.name, "cpu", "tensors on cpu")
        for kind in self._candidates(device_type):
            skipped = [f"{PACKAGES[better]} is not installed" for better in self.gpu]
            position = self.gpu.index(kind)
            reason = "; ".join(skipped[:position]) or f"{PACKAGES[kind]} is installed"
            return Choice(self.name, kind, reason)
        return Choice(self.name, self._plain()[0], self._why_plain(device_type))

    def _candidates(self, device_type: str) -> list[Accelerated]:
        if device_type != "cuda":
            return []
        return [kind for kind in self.gpu if installed(kind)]

    def _module(self, kind: Accelerated) -> ModuleType:
        return import_module(f"lalte_kernels.{self.name}.{kind}")

    def _plain(self) -> tuple[str, Callable[P, R]]:
        return ("torch", self.cpu) if self.portable else ("reference", self.reference)

    def _why_plain(self, device_type: str) -> str:
        if device_type != "cuda" or not self.gpu:
            return f"it has no kernel for {device_type}"
        return f"neither of {', '.join(PACKAGES[kind] for kind in self.gpu)} is installed"


@cache
def installed(kind: Accelerated) -> bool:
    """Whether the library that a kind of module stands on can be imported."""
    needed = {"fla": ("fla", "triton"), "triton": ("triton",)}[kind]
    return all(find_spec(name) is not None for name in needed)


@cache
def _say(op: str, device_type: str, implementation: str, reason: str) -> None:
    # Cached, so that each road is told once and not once per call.
    level = logging.WARNING if implementation == "reference" else logging.INFO
    _log.log(level, "%s on %s runs %s%s", op, device_type, implementation, reason and f": {reason}")
