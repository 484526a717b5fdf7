"""Named snapshots of sessions, and sessions made from what was copied.

A snapshot keeps the checkpoint's blob alive (meta's `pin:<attempt>`) and holds the cut behind it,
so it costs a fixed number of bytes however long the stream is. It belongs to the session's name:
it outlives a restore and dies with the session.
"""

import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import unquote

from memoryd.errors import (
    SessionExists,
    SnapshotExists,
    SnapshotNotFound,
    StateCorrupt,
    TooManySnapshots,
)
from memoryd.storage import scripts
from memoryd.storage.answers import fence, not_found, pairs, refuse
from memoryd.storage.client import Client
from memoryd.storage.cut import Cut
from memoryd.storage.errors import CheckpointIncomplete, CutMoved
from memoryd.storage.keys import SessionKey, validate_name
from memoryd.storage.records import BlobRef, Lease, SessionRecord, pack_labels, parse_record

MAX_SNAPSHOTS = 64
"""Of one session; each may pin a state of its own."""

_FIELD = "snap:"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """next: tokens of the stream when it was taken. nbytes: what it keeps in Redis."""

    name: str
    generation: str
    next: int
    nbytes: int
    created_ms: int


class SnapshotStore:
    """The part of the store that `Store.snapshots` gives; every method may raise as `Store`'s do.

    refuse_when_full: raises StorageFull where the reserve for checkpoints would be touched, on the
        server that holds the session.
    """

    def __init__(
        self, client: Client, refuse_when_full: Callable[[SessionKey], Awaitable[None]]
    ) -> None:
        self._client = client
        self._refuse_when_full = refuse_when_full

    async def take(self, lease: Lease, name: str, cut: Cut) -> Snapshot:
        """Pin the checkpoint that the cut names, and store the cut.

        Raises SnapshotExists, TooManySnapshots, CutMoved (the session no longer stands where it
        was cut), OwnershipLost, SessionNotFound, StorageFull, BadArgument for the name.
        """
        key = lease.key
        field = _field(key, name)
        await self._refuse_when_full(key)
        packed = cut.pack()
        nbytes = len(packed) + (cut.blob.nbytes if cut.blob is not None else 0)
        answer = await self._client.call(
            scripts.SNAPSHOT,
            key.meta,
            *fence(lease),
            field,
            secrets.token_hex(8),
            cut.blob.attempt if cut.blob is not None else "",
            cut.next,
            nbytes,
            packed,
            MAX_SNAPSHOTS,
        )
        if answer[0] == b"EXISTS":
            raise SnapshotExists(
                f"session {key.name!r} has a snapshot {name!r}: delete it, or choose another name",
                snapshot=name,
            )
        if answer[0] == b"TOO_MANY":
            raise TooManySnapshots(
                f"session {key.name!r} has {MAX_SNAPSHOTS} snapshots: delete one first",
                limit=MAX_SNAPSHOTS,
            )
        if answer[0] == b"MOVED":
            raise CutMoved(key)
        if answer[0] != b"OK":
            refuse(key, answer)
        return Snapshot(name, lease.generation, cut.next, nbytes, int(answer[1]))

    async def list_snapshots(self, key: SessionKey) -> list[Snapshot]:
        """Return all snapshots of a session, oldest first. Raises SessionNotFound."""
        fields = [name.decode() for name in await self._client.command("HKEYS", key.meta)]
        if not fields:
            raise not_found(key)
        names = [unquote(name.removeprefix(_FIELD)) for name in fields if name.startswith(_FIELD)]
        if not names:
            return []
        rows = await self._client.commands(
            [
                ("HMGET", key.snap(name), "generation", "next", "bytes", "created_ms")
                for name in names
            ]
        )
        found = [
            Snapshot(name, row[0].decode(), int(row[1]), int(row[2]), int(row[3]))
            for name, row in zip(names, rows, strict=True)
            if None not in row
        ]
        return sorted(found, key=lambda snapshot: (snapshot.created_ms, snapshot.name))

    async def read(self, key: SessionKey, name: str) -> Cut:
        """Return what a snapshot holds beside its blob. Raises SnapshotNotFound, StateCorrupt."""
        _field(key, name)
        packed = await self._client.command("HGET", key.snap(name), "cut")
        if packed is None:
            raise _no_snapshot(key, name)
        cut = Cut.unpack(packed)
        if cut.key != key:
            raise StateCorrupt(
                f"Snapshot {name!r} of session {key} is one of session {cut.key}: delete it.",
                snapshot=name,
            )
        return cut

    async def delete(self, key: SessionKey, name: str) -> None:
        """Drop a snapshot, and its blob where nothing else needs it. Raises SnapshotNotFound."""
        field = _field(key, name)
        identity = await self._client.command("HGET", key.snap(name), "id")
        if identity is None:
            raise _no_snapshot(key, name)
        answer = await self._client.call(
            scripts.DROP_SNAPSHOT, key.meta, field, identity, mark_again=True
        )
        if answer[0] != b"OK":
            raise _no_snapshot(key, name)

    async def install(
        self,
        cut: Cut,
        key: SessionKey,
        generation: str,
        blob: BlobRef | None,
        *,
        replacing: Lease | None = None,
    ) -> SessionRecord:
        """Make the stream of a cut the session `key`, under a new generation, without an owner.

        blob: the cut's checkpoint, staged under the new generation, as its archive is. replacing:
        the life of the session that ends with it; None makes a new session. The caller has listed a
        new session.

        Raises SessionExists, or OwnershipLost and SessionNotFound where `replacing` does not hold;
        CheckpointIncomplete, StorageFull.
        """
        await self._refuse_when_full(key)
        old = fence(replacing) if replacing is not None else ("", "", "")
        staged = (
            ("", 0, 0, 0, "")
            if blob is None
            else (blob.attempt, blob.offset, blob.nbytes, blob.parts, blob.digest)
        )
        answer = await self._client.call(
            scripts.INSTALL,
            key.meta,
            generation,
            *old,
            cut.model,
            cut.next,
            cut.tokens,
            cut.text,
            cut.writers,
            *staged,
            cut.ttl_ms,
            int(cut.archive),
            pack_labels(cut.labels),
            cut.archived,
            *(part for pair in cut.fields.items() for part in pair),
        )
        if answer[0] == b"EXISTS":
            raise SessionExists(
                f"Session {key} exists: choose another name, or delete it first.",
                session=key.name,
            )
        if answer[0] == b"INCOMPLETE":
            raise CheckpointIncomplete(staged[0], staged[3])
        if answer[0] != b"OK":
            refuse(key, answer)
        return parse_record(key, pairs(answer[1]))


def _field(key: SessionKey, name: str) -> str:
    """Return the name of the snapshot's field in meta. Raises BadArgument."""
    validate_name(name, "snapshot name")
    return _FIELD + key.snap(name).rpartition(":")[2]


def _no_snapshot(key: SessionKey, name: str) -> SnapshotNotFound:
    return SnapshotNotFound(f"session {key.name!r} has no snapshot {name!r}", snapshot=name)
