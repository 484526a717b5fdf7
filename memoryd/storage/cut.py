"""A session at one instant, without its state: what a snapshot holds and an export begins with.

Layout: 8 bytes of magic, whose last digit is the format version; a msgpack map; xxh3-128 over both.
The state of the tokens before `blob.offset` lies elsewhere; the cut says how it must look. Nothing
is allocated from a size that was not checked against the bytes at hand.
"""

from dataclasses import dataclass
from typing import Any

import msgpack
import xxhash

from memoryd.errors import BadArgument, StateCorrupt
from memoryd.storage.keys import SessionKey
from memoryd.storage.records import CHAT_PREFIX, BlobRef

MAGIC = b"mdcut002"
DIGEST_BYTES = 16
MAX_CUT_BYTES = 32 << 20
"""Tokens that wait to be read, the text behind them and 16 stored replies fit many times over."""
MAX_FIELDS = 64
MAX_OFFSET = 2**53
"""Scripts compute with doubles."""

_TOKEN_BYTES = 4
_TYPES = {
    "tenant": str,
    "session": str,
    "generation": str,
    "model": str,
    "next": int,
    "blob": list,
    "tokens": bytes,
    "text": bytes,
    "writers": bytes,
    "fields": dict,
    "labels": dict,
    "ttl_ms": int,
    "archive": bool,
    "archived": int,
}


@dataclass(frozen=True, slots=True)
class Cut:
    """What was true of a session at one instant.

    next: tokens of the stream. blob: the checkpoint, None before the first. tokens: what lies
    between the checkpoint and `next`, ids as uint32 LE. text, writers, fields: what stands beside
    the journal, as `SessionRecord` has it. labels, ttl_ms, archive: for a session made from
    it. archived: bytes of the archive that belong to it; they lie elsewhere too.
    """

    key: SessionKey
    generation: str
    model: str
    next: int
    blob: BlobRef | None
    tokens: bytes
    text: bytes
    writers: bytes
    fields: dict[str, bytes]
    labels: dict[str, str]
    ttl_ms: int
    archive: bool
    archived: int

    @property
    def offset(self) -> int:
        """Where the checkpoint stands."""
        return self.blob.offset if self.blob is not None else 0

    def pack(self) -> bytes:
        blob = self.blob
        packed = msgpack.packb(
            {
                "tenant": self.key.tenant,
                "session": self.key.name,
                "generation": self.generation,
                "model": self.model,
                "next": self.next,
                "blob": []
                if blob is None
                else [blob.attempt, blob.offset, blob.nbytes, blob.parts, blob.digest],
                "tokens": self.tokens,
                "text": self.text,
                "writers": self.writers,
                "fields": self.fields,
                "labels": self.labels,
                "ttl_ms": self.ttl_ms,
                "archive": self.archive,
                "archived": self.archived,
            }
        )
        body = MAGIC + bytes(packed)
        return body + bytes(xxhash.xxh3_128_digest(body))

    @classmethod
    def unpack(cls, packed: bytes) -> "Cut":
        """Raises StateCorrupt where anything is not as `pack` writes it."""
        if not len(MAGIC) + DIGEST_BYTES < len(packed) <= MAX_CUT_BYTES:
            raise _corrupt(f"it has {len(packed)} bytes")
        if packed[: len(MAGIC)] != MAGIC:
            raise _corrupt(f"it begins with {packed[: len(MAGIC)]!r} and not with {MAGIC!r}")
        body, digest = packed[:-DIGEST_BYTES], packed[-DIGEST_BYTES:]
        if xxhash.xxh3_128_digest(body) != digest:
            raise _corrupt("its digest does not fit its bytes")
        try:
            values = msgpack.unpackb(
                body[len(MAGIC) :], strict_map_key=True, max_ext_len=0, max_map_len=MAX_FIELDS
            )
        except (ValueError, TypeError, msgpack.UnpackException) as error:
            raise _corrupt(f"it is not readable ({type(error).__name__})") from error
        return _checked(values)


def _checked(values: Any) -> Cut:
    if not isinstance(values, dict) or set(values) != set(_TYPES):
        raise _corrupt(f"it must have exactly the fields {', '.join(_TYPES)}")
    for name, kind in _TYPES.items():
        if type(values[name]) is not kind:
            raise _corrupt(f"its {name} is no {kind.__name__}")
    for name in ("next", "ttl_ms", "archived"):
        if not 0 <= values[name] < MAX_OFFSET:
            raise _corrupt(f"its {name} is {values[name]}")
    if values["archived"] and not values["archive"]:
        raise _corrupt("it has an archive, but says that it keeps none")
    fields, labels = values["fields"], values["labels"]
    if not all(
        type(value) is bytes and name.startswith(CHAT_PREFIX) for name, value in _text(fields)
    ):
        raise _corrupt("a stored reply is not named or packed as one")
    if not all(type(value) is str for _, value in _text(labels)):
        raise _corrupt("a label is no text")
    blob = _blob(values["blob"])
    count, rest = divmod(len(values["tokens"]), _TOKEN_BYTES)
    if rest or (blob.offset if blob is not None else 0) + count != values["next"]:
        raise _corrupt("its tokens do not reach from its checkpoint to its end")
    try:
        key = SessionKey(values["tenant"], values["session"])
    except BadArgument as error:
        raise _corrupt(error.message) from error
    return Cut(
        key=key,
        blob=blob,
        **{name: values[name] for name in _TYPES if name not in ("tenant", "session", "blob")},
    )


def _text(mapping: dict[Any, Any]) -> list[tuple[str, Any]]:
    if not all(type(name) is str for name in mapping):
        raise _corrupt("a name in it is no text")
    return list(mapping.items())


def _blob(row: list[Any]) -> BlobRef | None:
    if not row:
        return None
    kinds = (str, int, int, int, str)
    if len(row) != len(kinds) or any(
        type(value) is not kind for value, kind in zip(row, kinds, strict=True)
    ):
        raise _corrupt("what it says about its checkpoint is not readable")
    blob = BlobRef(*row)
    if not all(0 <= number < MAX_OFFSET for number in (blob.offset, blob.nbytes, blob.parts)):
        raise _corrupt("what it says about its checkpoint cannot be")
    return blob


def _corrupt(what: str) -> StateCorrupt:
    return StateCorrupt(
        f"A stored cut of a session was refused, {what}: take another snapshot, or export again."
    )
