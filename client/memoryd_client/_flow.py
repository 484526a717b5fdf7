"""Calls as plain generators, so that the blocking and the asyncio client share one logic.

A flow yields effects - "send this", "read one", "sleep" - and is sent their results; a failed
call is thrown into it as a `MemorydError`. What it yields as `Emit` goes to the caller. It never
does I/O itself: `_drive` has one driver that blocks and one that awaits.
"""

from collections.abc import Generator
from dataclasses import dataclass
from enum import Enum
from typing import Any, Generic, TypeAlias, TypeVar

from google.protobuf.message import Message

T = TypeVar("T")


@dataclass(frozen=True)
class Rpc:
    """One method: the service's short name and the method's name."""

    service: str
    method: str


@dataclass(frozen=True)
class Invoke:
    """Make a unary call; its result is the response. timeout: seconds, None is no limit."""

    rpc: Rpc
    request: Message
    timeout: float | None


@dataclass(frozen=True)
class Open:
    """Start a streaming call and leave any earlier one.

    request: the only one of a server stream; None opens a bidirectional stream for `Write`.
    """

    rpc: Rpc
    request: Message | None
    timeout: float | None


@dataclass(frozen=True)
class Write:
    """Queue a message on the open bidirectional stream; a broken stream shows at `Read`."""

    message: Message


@dataclass(frozen=True)
class CloseWrites:
    """Say that no more messages come."""


@dataclass(frozen=True)
class Read:
    """Take the next response; None is the orderly end.

    wait: else, on a bidirectional stream, `NOTHING_YET` where none has arrived.
    """

    wait: bool = True


class _NothingYet(Enum):
    NOTHING_YET = "nothing yet"


NOTHING_YET = _NothingYet.NOTHING_YET


@dataclass(frozen=True)
class Pull:
    """Take the next item of the caller's source; None is its end."""


@dataclass(frozen=True)
class Sleep:
    """Let `seconds` pass."""

    seconds: float


@dataclass(frozen=True)
class Emit(Generic[T]):
    """Hand a value to the caller."""

    value: T


Effect: TypeAlias = Invoke | Open | Write | CloseWrites | Read | Pull | Sleep
Flow: TypeAlias = Generator[Effect | Emit[T], Any, None]
