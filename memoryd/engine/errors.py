"""What the engine refuses, each with its facts in fields. Sessions translate them for callers."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class EngineError(Exception):
    """Base of all errors of the engine."""


class NoFreeSlot(EngineError):
    """All `slots` hold sessions."""

    def __init__(self, slots: int) -> None:
        super().__init__(f"all {slots} slots hold sessions: close one first")
        self.slots = slots


class StateRefused(EngineError):
    """A state that must not be served, or not be stored; `reason` names what is wrong with it."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the state was refused, {reason}: load an older one or start anew")
        self.reason = reason


class SessionNotOpen(EngineError):
    def __init__(self, key: str) -> None:
        super().__init__(f"session {key!r} has no slot: open it first")
        self.key = key


class SessionAlreadyOpen(EngineError):
    def __init__(self, key: str) -> None:
        super().__init__(f"session {key!r} has a slot already: close it first")
        self.key = key


class GenerationFailed(EngineError):
    """A reply ended without its end; `reason` is one sentence or clause."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the reply could not be generated: {reason}")
        self.reason = reason


class LayerKeepsNoTokens(EngineError):
    """Only LTE layers keep tokens; `layers` are those."""

    def __init__(self, layer: int, layers: Sequence[int]) -> None:
        super().__init__(f"layer {layer} keeps no tokens: ask for some of {list(layers)}")
        self.layer = layer
        self.layers = tuple(layers)


class TokenOutOfRange(EngineError):
    def __init__(self, token: int, vocab_size: int) -> None:
        super().__init__(f"token {token} is not in [0, {vocab_size}): use this model's tokenizer")
        self.token = token
        self.vocab_size = vocab_size


class EngineStopped(EngineError):
    """The engine's thread has ended; `reason` says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the engine has stopped, {reason}: start the daemon anew")
        self.reason = reason


class IntegrityError(EngineError):
    """The scheduler's books contradict themselves or the slots: a fault of ours, so we stop."""
