"""The part of SessionService that copies sessions: fork, snapshots, restore, export, import."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Mapping
from contextlib import aclosing

from memoryd.detached import detached
from memoryd.errors import BadArgument, EmptyStream
from memoryd.rpc import convert
from memoryd.rpc.calls import Call, Host, Requests, Servicer, streaming, unary
from memoryd.scopes import Scope
from memoryd.sessions.copying import read_out
from memoryd.sessions.manager import Remote
from memoryd.sessions.objects import SessionObjects
from memoryd.storage.records import SessionRecord
from memoryd_proto.v1 import session_pb2

_PATH = "/memoryd.v1.SessionService/"
PIECE_BYTES = 512 * 1024
IMPORTS = 2
"""Files that are taken at the same time: each may be held whole."""


class ObjectCalls(Servicer):
    """See session.proto."""

    def __init__(self, host: Host) -> None:
        super().__init__(host)
        settings = host.settings
        key = settings.export_key
        self.objects = SessionObjects(
            host.manager,
            export_key=key.get_secret_value().encode() if key is not None else None,
            import_unsigned=settings.takes_unsigned_imports,
            max_archive=settings.max_import_archive_bytes,
        )
        self._importing = asyncio.Semaphore(IMPORTS)

    async def found(self, call: Call, name: str) -> SessionRecord:
        """The session as it stands in Redis, if no other living daemon owns it."""
        key = call.key(name)
        record = await detached(self.manager.record(key))
        address = await detached(self.manager.owner_address(record))
        if address is not None:
            self.elsewhere(call, address)
        return record

    @unary(_PATH + "UpdateSession", session_pb2.UpdateSessionResponse)
    async def UpdateSession(  # noqa: N802
        self, request: session_pb2.UpdateSessionRequest, call: Call
    ) -> session_pb2.UpdateSessionResponse:
        ttl_ms = None
        if request.HasField("ttl"):
            ttl_ms = convert.ttl_ms(request.ttl) if request.ttl.ToNanoseconds() else 0

        def relabel(labels: Mapping[str, str]) -> dict[str, str]:
            changed = {**labels, **request.labels}
            removed = {name for name, value in request.labels.items() if not value}
            return convert.labels({n: v for n, v in changed.items() if n not in removed})

        key = (await self.found(call, request.name)).key
        record = await detached(self.objects.update(key, ttl_ms=ttl_ms, relabel=relabel))
        actor = self.manager.loaded(key)
        return session_pb2.UpdateSessionResponse(session=convert.session(record, actor=actor))

    @unary(_PATH + "ForkSession", session_pb2.ForkSessionResponse)
    async def ForkSession(  # noqa: N802
        self, request: session_pb2.ForkSessionRequest, call: Call
    ) -> session_pb2.ForkSessionResponse:
        new_key = call.key(request.new_name)
        await detached(self.objects.refuse_existing(new_key))
        actor = await self.owned(call, request.name)
        with actor.used():
            cut, state = await detached(read_out(actor))
        record = await detached(self.objects.copy(cut, state, new_key))
        return session_pb2.ForkSessionResponse(session=convert.session(record))

    @unary(_PATH + "SnapshotSession", session_pb2.SnapshotSessionResponse)
    async def SnapshotSession(  # noqa: N802
        self, request: session_pb2.SnapshotSessionRequest, call: Call
    ) -> session_pb2.SnapshotSessionResponse:
        actor = await self.owned(call, request.name)
        with actor.used():
            # What it pins is kept twice as soon as the session goes on.
            await self.quotas.admit_bytes(call.tenant, self.host.info.state_bytes)
            snapshot = await detached(self.objects.snapshot(actor, request.snapshot))
        self.quotas.changed(actor.record.key)
        return session_pb2.SnapshotSessionResponse(snapshot=convert.snapshot(snapshot))

    @unary(_PATH + "ListSnapshots", session_pb2.ListSnapshotsResponse)
    async def ListSnapshots(  # noqa: N802
        self, request: session_pb2.ListSnapshotsRequest, call: Call
    ) -> session_pb2.ListSnapshotsResponse:
        snapshots = self.manager.services.store.snapshots
        found = await detached(snapshots.list_snapshots(call.key(request.name)))
        return session_pb2.ListSnapshotsResponse(
            snapshots=[convert.snapshot(snapshot) for snapshot in found]
        )

    @unary(_PATH + "DeleteSnapshot", session_pb2.DeleteSnapshotResponse)
    async def DeleteSnapshot(  # noqa: N802
        self, request: session_pb2.DeleteSnapshotRequest, call: Call
    ) -> session_pb2.DeleteSnapshotResponse:
        snapshots, key = self.manager.services.store.snapshots, call.key(request.name)
        await detached(snapshots.delete(key, request.snapshot))
        self.quotas.changed(key)
        return session_pb2.DeleteSnapshotResponse()

    @unary(_PATH + "RestoreSession", session_pb2.RestoreSessionResponse)
    async def RestoreSession(  # noqa: N802
        self, request: session_pb2.RestoreSessionRequest, call: Call
    ) -> session_pb2.RestoreSessionResponse:
        key = (await self.found(call, request.name)).key
        found = await detached(self.objects.restore(key, request.snapshot))
        if isinstance(found, Remote):
            self.elsewhere(call, found.address)
        self.quotas.changed(key)
        return session_pb2.RestoreSessionResponse(session=convert.session(found))

    @streaming(_PATH + "ExportSession", session_pb2.ExportSessionResponse)
    async def ExportSession(  # noqa: N802
        self, request: session_pb2.ExportSessionRequest, call: Call
    ) -> AsyncGenerator[session_pb2.ExportSessionResponse]:
        actor = await self.owned(call, request.name)
        with actor.used():
            cut, state = await detached(read_out(actor))
        size = min(PIECE_BYTES, self.host.settings.max_message_bytes)
        async with aclosing(self.objects.export(cut, state)) as pieces:
            async for piece in pieces:
                for at in range(0, len(piece), size):
                    yield session_pb2.ExportSessionResponse(data=piece[at : at + size])

    @unary(_PATH + "ImportSession", session_pb2.ImportSessionResponse)
    async def ImportSession(  # noqa: N802
        self, requests: AsyncIterable[session_pb2.ImportSessionRequest], call: Call
    ) -> session_pb2.ImportSessionResponse:
        async with self._importing:
            reader = self.objects.reader()
            key = None
            async for request in Requests(requests, self.host.draining):
                self.check(request)
                if key is None:
                    key = call.key(request.name)
                    await detached(self.objects.refuse_existing(key))
                elif request.name not in ("", key.name):
                    raise BadArgument("name: one stream makes one session", field="name")
                reader.feed(request.data)
            if key is None:
                raise EmptyStream("the stream ended before its first message")
            file = await asyncio.to_thread(reader.finish)
            convert.labels(file.cut.labels)
            by_admin = Scope.ADMIN in call.scopes
            record = await detached(self.objects.import_file(key, file, by_admin=by_admin))
        return session_pb2.ImportSessionResponse(session=convert.session(record))
