"""How turns and documents are framed as tokens.

A stream is a list of turns. Each is `open(role)`, the tokens of its content, `close(role)`. Framing
is fixed token ids, so that tokenising one turn never depends on the next.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal

from lalte.text.errors import TurnFormatError

if TYPE_CHECKING:
    from collections.abc import Mapping


class Role(StrEnum):
    """Whose text a turn holds. A document is framed as a user turn; raw text is not framed."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    DOCUMENT = "document"
    RAW = "raw"


@dataclass(frozen=True, slots=True)
class Frame:
    """The ids around a turn's content."""

    prefix: tuple[int, ...] = ()
    suffix: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class TurnFormat:
    """A model's framing, derived from its chat template or plain.

    begin: ids at the start of every stream (a BOS token, or nothing).
    frames: one Frame for each role but RAW.
    stop_ids: ids that end a reply; they are not part of it.
    default_system: what the template says when a conversation has no system turn; None for nothing.
    default_system_ids: that turn as ids, framing included.
    origin: "plain" for a model without a chat template: no framing at all.
    """

    begin: tuple[int, ...]
    frames: Mapping[Role, Frame]
    stop_ids: frozenset[int]
    default_system: str | None
    default_system_ids: tuple[int, ...]
    origin: Literal["chat_template", "plain"]

    @classmethod
    def plain(cls, stop_ids: frozenset[int], begin: tuple[int, ...] = ()) -> TurnFormat:
        """Make the format of a model without a chat template: no framing; EOS ends a reply."""
        frames: dict[Role, Frame] = {role: Frame() for role in Role if role is not Role.RAW}
        return cls(begin, frames, stop_ids, None, (), "plain")

    def start(self, first: Role) -> list[int]:
        """Ids at the start of a stream whose first turn is `first`.

        The default system turn comes before a framed first turn that is not a system turn itself.
        """
        due = first not in (Role.SYSTEM, Role.RAW)
        return [*self.begin, *(self.default_system_ids if due else ())]

    def open(self, role: Role) -> list[int]:
        """Ids before a turn's content."""
        return [] if role is Role.RAW else list(self.frames[role].prefix)

    def close(self, role: Role) -> list[int]:
        """Ids after a turn's content."""
        return [] if role is Role.RAW else list(self.frames[role].suffix)

    @property
    def reply_prefix(self) -> list[int]:
        """Ids after which the model writes its reply."""
        return self.open(Role.ASSISTANT)

    def to_json(self) -> str:
        """Write a stable text: equal formats give equal text."""
        data = asdict(self) | {"stop_ids": sorted(self.stop_ids)}
        return json.dumps(data, indent=1, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> TurnFormat:
        """Read `to_json`'s text. Raises TurnFormatError for anything else."""
        try:
            return cls._from_dict(json.loads(text))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise TurnFormatError(
                f"turn_format.json cannot be read ({error!r}); convert the model again"
            ) from error

    @classmethod
    def _from_dict(cls, data: dict[str, Any]) -> TurnFormat:
        frames = {
            Role(role): Frame(_ids(frame["prefix"]), _ids(frame["suffix"]))
            for role, frame in data["frames"].items()
        }
        missing = set(Role) - {Role.RAW} - set(frames)
        if missing:
            raise ValueError(f"no frame for {sorted(missing)}")
        if data["origin"] not in ("chat_template", "plain"):
            raise ValueError(f"unknown origin {data['origin']!r}")
        system = data["default_system"]
        return cls(
            begin=_ids(data["begin"]),
            frames=frames,
            stop_ids=frozenset(_ids(data["stop_ids"])),
            default_system=None if system is None else str(system),
            default_system_ids=_ids(data["default_system_ids"]),
            origin=data["origin"],
        )


def _ids(values: list[int]) -> tuple[int, ...]:
    return tuple(int(value) for value in values)
