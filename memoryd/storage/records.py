"""What Redis holds about a session, as values."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import msgpack

from memoryd.errors import StateCorrupt
from memoryd.storage.keys import SessionKey

CHAT_PREFIX = "chat:"
"""Hash fields that a session's actor names itself begin with this."""


@dataclass(frozen=True, slots=True)
class BlobRef:
    """Where a checkpoint lies and how it must look.

    attempt: drawn for this write alone. offset: tokens that the state has read. nbytes, parts:
    the length and the number of hash fields. digest: xxh3-128 of the body, hex.
    """

    attempt: str
    offset: int
    nbytes: int
    parts: int
    digest: str


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to write a session; every script compares all three for equality."""

    key: SessionKey
    generation: str
    owner: str
    epoch: int


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """A session's meta hash.

    owner: "" when nobody holds the session. next: tokens journalled so far. text: the opaque text
    tail and open turn. writers: the opaque table of writers. fields: what the actor stored under
    names of its own (`chat:<id>`). ttl_ms: 0 when the session never expires. archived: bytes of
    the archive, 0 for a session without one.
    """

    key: SessionKey
    generation: str
    owner: str
    epoch: int
    next: int
    blob: BlobRef | None
    text: bytes
    writers: bytes
    model: str
    created_ms: int
    updated_ms: int
    ttl_ms: int
    archive: bool
    archived: int
    labels: dict[str, str]
    fields: dict[str, bytes] = field(default_factory=dict)

    @property
    def lease(self) -> Lease:
        return Lease(self.key, self.generation, self.owner, self.epoch)


@dataclass(frozen=True, slots=True)
class MemoryInfo:
    """Bytes that the server uses and may use; maxmemory 0 means no limit."""

    used: int
    maxmemory: int


META_FIELDS = (
    "generation",
    "owner",
    "epoch",
    "next",
    "model",
    "created_ms",
    "updated_ms",
    "ttl_ms",
    "archive",
    "archive_next",
    "labels",
    "blob_attempt",
    "blob_offset",
    "blob_nbytes",
    "blob_parts",
    "blob_digest",
)
"""The fields of every meta hash that do not grow with what clients send."""


def pack_labels(labels: Mapping[str, str]) -> bytes:
    return bytes(msgpack.packb(dict(labels)))


def parse_record(key: SessionKey, meta: Mapping[bytes, bytes]) -> SessionRecord:
    """Read a meta hash; raises StateCorrupt where a field is absent or is no number."""
    try:
        number = {
            name: int(meta[name.encode()])
            for name in ("epoch", "next", "created_ms", "updated_ms", "ttl_ms")
        }
        labels = msgpack.unpackb(meta[b"labels"])
        blob = None
        if meta.get(b"blob_attempt"):
            blob = BlobRef(
                attempt=meta[b"blob_attempt"].decode(),
                offset=int(meta[b"blob_offset"]),
                nbytes=int(meta[b"blob_nbytes"]),
                parts=int(meta[b"blob_parts"]),
                digest=meta[b"blob_digest"].decode(),
            )
        return SessionRecord(
            key=key,
            generation=meta[b"generation"].decode(),
            owner=meta[b"owner"].decode(),
            blob=blob,
            text=meta.get(b"text", b""),
            writers=meta.get(b"writers", b""),
            model=meta[b"model"].decode(),
            archive=meta[b"archive"] == b"1",
            archived=int(meta.get(b"archive_next", b"0")),
            labels={str(name): str(value) for name, value in labels.items()},
            fields={
                name.decode(): value
                for name, value in meta.items()
                if name.startswith(CHAT_PREFIX.encode())
            },
            **number,
        )
    except (KeyError, ValueError, AttributeError, msgpack.UnpackException) as error:
        raise StateCorrupt(
            f"The stored record of session {key} cannot be read ({error!r}): have the operator "
            "discard the session, and create it anew.",
            session=key,
        ) from error
