"""Sessions as objects: update, fork, snapshot, restore, export, import.

Every method is to be run to its end even if its caller leaves.
"""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace

from memoryd.errors import (
    ImportRefused,
    OwnershipLost,
    SessionExists,
    SignatureRefused,
    StateCorrupt,
)
from memoryd.sessions.actor import SessionActor
from memoryd.sessions.archive import pieces
from memoryd.sessions.copying import (
    ATTEMPTS,
    RETRY_SECONDS,
    Planter,
    at_rest,
    check_archive,
    went_on,
)
from memoryd.sessions.manager import Remote, SessionManager
from memoryd.storage.codec import MAX_HEADER_BYTES
from memoryd.storage.cut import Cut
from memoryd.storage.errors import CutMoved
from memoryd.storage.keys import SessionKey
from memoryd.storage.portable import FileReader, FileWriter, PortableSession
from memoryd.storage.records import SessionRecord
from memoryd.storage.snapshots import Snapshot

Labels = dict[str, str]

PIECE_BYTES = 512 << 10


class SessionObjects:
    """Works on the sessions of one daemon.

    export_key: signs exports and verifies imports; None does neither. import_unsigned: whether
    files that it did not sign are taken. max_archive: bytes of an archive that an import may have.
    """

    def __init__(
        self,
        manager: SessionManager,
        *,
        export_key: bytes | None,
        import_unsigned: bool,
        max_archive: int,
    ) -> None:
        self._manager = manager
        self._store = manager.services.store
        self._quotas = manager.services.quotas
        self._planter = Planter(manager)
        self._export_key = export_key
        self._import_unsigned = import_unsigned
        self._max_archive = max_archive

    async def update(
        self, key: SessionKey, *, ttl_ms: int | None, relabel: Callable[[Labels], Labels]
    ) -> SessionRecord:
        """Change time to live (0: lives until deleted; None: as it is) and labels.

        Raises SessionNotFound, OwnershipLost, and what `relabel` raises.
        """
        for _ in range(ATTEMPTS):
            record = await self._manager.record(key)
            labels = relabel(record.labels)
            try:
                updated = await self._store.update(record, ttl_ms=ttl_ms, labels=labels)
            except OwnershipLost:
                continue
            if updated is None:
                continue
            actor = self._manager.loaded(key)
            if actor is not None and actor.record.lease == updated.lease:
                actor.record = replace(actor.record, ttl_ms=updated.ttl_ms, labels=updated.labels)
            return updated
        raise OwnershipLost(
            f"session {key.name!r} changes too fast; retry", retry_after=RETRY_SECONDS
        )

    async def snapshot(self, actor: SessionActor, name: str) -> Snapshot:
        """Pin the session's memory of now under a name.

        Raises SnapshotExists, TooManySnapshots, BadArgument, and what appends raise.
        """
        for _ in range(ATTEMPTS):
            async with at_rest(actor) as cut:
                try:
                    return await self._store.snapshots.take(actor.record.lease, name, cut)
                except CutMoved:
                    continue
        raise went_on(actor.record.key)

    async def copy(self, cut: Cut, state: bytes, key: SessionKey) -> SessionRecord:
        """Make another session of what was read out of one. Raises SessionExists, QuotaExceeded."""
        async with self._quotas.new_session(key, len(state) + cut.archived):
            return await self._planter.plant(await self._planter.stage(cut, state, key))

    async def restore(self, key: SessionKey, name: str) -> SessionRecord | Remote:
        """Start a new generation from a snapshot; what was appended since is gone.

        The session in memory is not touched before the snapshot was verified. Gives the session as
        it is stored then, owned by nobody, or where its owner is. Raises SnapshotNotFound,
        StateCorrupt, ModelMismatch, SessionNotFound.
        """
        cut = await self._store.snapshots.read(key, name)
        state = b""
        if cut.blob is not None:
            state = await self._manager.services.blobs.get(key, cut.generation, cut.blob)
        seed = await self._planter.stage(cut, state, key)
        found = await self._manager.replace(
            key, lambda record: self._planter.plant(seed, replacing=record.lease)
        )
        if isinstance(found, Remote):
            await self._planter.drop(seed)
        return found

    async def export(self, cut: Cut, state: bytes) -> AsyncGenerator[bytes]:
        """What was read out of a session as one file, in pieces; may be left at any of them.

        Raises StateCorrupt where the session was replaced before its archive was read.
        """
        writer = FileWriter(self._export_key)
        yield writer.begin(cut)
        for at in range(0, len(state), PIECE_BYTES):
            yield writer.add(state[at : at + PIECE_BYTES])
        archives = self._store.archives
        async with aclosing(archives.read(cut.key, cut.generation, cut.archived)) as archive:
            async for piece in archive:
                yield writer.add(piece)
        yield writer.end()

    def reader(self) -> FileReader:
        """Takes a file that is to be imported."""
        info = self._manager.services.engine.info
        # What grows with a stream is bounded alike, whether it is a state or an archive.
        grown = self._max_archive if info.token_bytes else 0
        max_state = info.state_bytes + MAX_HEADER_BYTES + grown
        return FileReader(self._export_key, max_state, self._max_archive)

    async def import_file(
        self, key: SessionKey, file: PortableSession, *, by_admin: bool
    ) -> SessionRecord:
        """Make a session from a file that was read whole. Unsigned ones are for admins only.

        Raises SignatureRefused, ImportRefused, ModelMismatch, SessionExists, QuotaExceeded.
        """
        if not (file.signed or (self._import_unsigned and by_admin)):
            raise SignatureRefused(
                "the file is not signed with this deployment's export key: import what was "
                "exported here, or set import_unsigned and use a key with the scope admin"
            )
        await self.refuse_existing(key)
        async with self._quotas.new_session(key, len(file.state) + file.cut.archived):
            try:
                check_archive(file.archive, file.cut.next)
                archive = _in_pieces(file.archive)
                seed = await self._planter.stage(file.cut, file.state, key, archive)
            except StateCorrupt as error:
                raise ImportRefused(f"the file was refused: {error.message}") from error
            return await self._planter.plant(seed)

    async def refuse_existing(self, key: SessionKey) -> None:
        """Raise SessionExists before any work is done."""
        if await self._store.read(key) is not None:
            raise SessionExists(
                f"Session {key} exists: choose another name, or delete it first.",
                session=key.name,
            )


async def _in_pieces(archive: bytes) -> AsyncGenerator[bytes]:
    for piece in pieces(archive, PIECE_BYTES):
        yield piece
