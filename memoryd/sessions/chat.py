"""Chat records: what makes a Chat call with the same request id safe to send again.

A record stands beside the journal and is written in the same script as the tokens it tells of. A
session keeps its newest MAX_RECORDS.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import msgpack

from memoryd.errors import RequestReused
from memoryd.sessions.packing import unpack
from memoryd.sessions.reply import FinishReason

MAX_RECORDS = 16
FIELD_PREFIX = "chat:"


@dataclass(frozen=True)
class ChatRecord:
    """One exchange.

    order: counts up over the session's exchanges.
    digest: of the user's message, to tell a retry from a reused id.
    seed: of the draw; a reply that goes on after a break draws as if there had been none.
    reply: ids journaled so far; text: what they and their remainder show.
    finish: why the reply ended, None while it is being written.
    """

    order: int
    digest: bytes
    seed: int
    reply: tuple[int, ...] = ()
    text: str = ""
    finish: FinishReason | None = None

    def pack(self) -> bytes:
        packed: bytes = msgpack.packb(
            [self.order, self.digest, self.seed, self.reply, self.text, self.finish]
        )
        return packed

    @classmethod
    def unpack(cls, packed: bytes) -> "ChatRecord":
        """Raises StateCorrupt."""
        return unpack(packed, cls._of_row, "chat record")

    @classmethod
    def _of_row(cls, row: list[Any]) -> "ChatRecord":
        order, digest, seed, reply, text, finish = row
        # bytes() of a number would make as many zeros.
        if not (isinstance(digest, bytes) and isinstance(text, str)):
            raise TypeError("digest and text of a chat record")
        return cls(int(order), digest, int(seed), tuple(map(int, reply)), text, finish)

    def grown(self, ids: tuple[int, ...], text: str) -> "ChatRecord":
        return replace(self, reply=self.reply + ids, text=self.text + text)


class ChatRecords:
    """A session's records by request id. Immutable: a change gives a copy."""

    def __init__(self, records: Mapping[str, ChatRecord] | None = None) -> None:
        self.records = dict(records or {})

    @classmethod
    def unpack(cls, fields: Mapping[str, bytes]) -> "ChatRecords":
        return cls(
            {
                name.removeprefix(FIELD_PREFIX): ChatRecord.unpack(packed)
                for name, packed in fields.items()
                if name.startswith(FIELD_PREFIX)
            }
        )

    def pack(self) -> dict[str, bytes]:
        """All of them, as `unpack` takes them."""
        return {FIELD_PREFIX + name: record.pack() for name, record in self.records.items()}

    def get(self, request_id: str, message: bytes) -> ChatRecord | None:
        """The record of a retry, None for a new exchange.

        Raises RequestReused where the id belongs to another message.
        """
        record = self.records.get(request_id)
        if record is not None and record.digest != message_digest(message):
            raise RequestReused(f"request id {request_id!r} was used for another message")
        return record

    def new(self, message: bytes, seed: int) -> ChatRecord:
        order = 1 + max((record.order for record in self.records.values()), default=0)
        return ChatRecord(order, message_digest(message), seed)

    def put(self, request_id: str, record: ChatRecord) -> "ChatRecords":
        """With the record, and without the oldest ones beyond MAX_RECORDS."""
        records = self.records | {request_id: record}
        newest = sorted(records, key=lambda name: records[name].order)[-MAX_RECORDS:]
        return ChatRecords({name: records[name] for name in newest})

    def changes_since(self, before: "ChatRecords") -> dict[str, bytes | None]:
        """Fields to store, None for those to remove, where `before` is what is stored."""
        changes: dict[str, bytes | None] = {
            FIELD_PREFIX + name: record.pack()
            for name, record in self.records.items()
            if before.records.get(name) != record
        }
        changes |= {FIELD_PREFIX + name: None for name in before.records.keys() - self.records}
        return changes


def message_digest(message: bytes) -> bytes:
    return hashlib.blake2b(message, digest_size=16).digest()
