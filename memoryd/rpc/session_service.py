"""SessionService: sessions as objects."""

import uuid

from memoryd.detached import detached
from memoryd.engine.errors import LayerKeepsNoTokens
from memoryd.errors import (
    BadArgument,
    GenerationChanged,
    ModelNotFound,
)
from memoryd.rpc import convert
from memoryd.rpc.calls import Call, unary
from memoryd.rpc.rebuild_service import RebuildCalls
from memoryd.sessions.manager import Remote
from memoryd.storage.records import SessionRecord
from memoryd_proto.v1 import session_pb2, session_pb2_grpc, types_pb2

_PATH = "/memoryd.v1.SessionService/"
DEFAULT_PAGE, MAX_PAGE = 100, 1000
DEFAULT_INSPECTED = 32


class SessionService(RebuildCalls, session_pb2_grpc.SessionServiceServicer):
    """See session.proto."""

    @unary(_PATH + "CreateSession", session_pb2.CreateSessionResponse)
    async def CreateSession(  # noqa: N802
        self, request: session_pb2.CreateSessionRequest, call: Call
    ) -> session_pb2.CreateSessionResponse:
        info = self.host.info
        if request.model:
            convert.identifier(request.model, "model", convert.MAX_MODEL_BYTES)
        if request.model not in ("", info.model):
            raise ModelNotFound(
                f"this daemon serves {info.model}, not {request.model!r}", model=info.model
            )
        key = call.key(request.name or uuid.uuid4().hex)
        ttl_ms = convert.ttl_ms(request.ttl) if request.HasField("ttl") else 0
        labels = convert.labels(request.labels)
        async with self.quotas.new_session(key):
            record = await detached(
                self.manager.services.store.create(
                    key,
                    model=self.manager.services.model_id,
                    ttl_ms=ttl_ms,
                    archive=request.archive,
                    labels=labels,
                )
            )
        return session_pb2.CreateSessionResponse(session=convert.session(record))

    @unary(_PATH + "GetSession", session_pb2.GetSessionResponse)
    async def GetSession(  # noqa: N802
        self, request: session_pb2.GetSessionRequest, call: Call
    ) -> session_pb2.GetSessionResponse:
        record = await self.found(call, request.name)
        actor = self.manager.loaded(record.key)
        if actor is not None and actor.record.lease != record.lease:
            actor = None  # the session has moved on, and what this daemon holds is old
        owner = self.host.address if actor is not None else ""
        return session_pb2.GetSessionResponse(
            session=convert.session(record, actor=actor, owner=owner)
        )

    @unary(_PATH + "ListSessions", session_pb2.ListSessionsResponse)
    async def ListSessions(  # noqa: N802
        self, request: session_pb2.ListSessionsRequest, call: Call
    ) -> session_pb2.ListSessionsResponse:
        if not 0 <= request.page_size <= MAX_PAGE:
            raise BadArgument(f"page_size: 0 to {MAX_PAGE}", field="page_size")
        if request.page_token and not request.page_token.startswith(request.prefix):
            raise BadArgument("page_token: of a list with another prefix", field="page_token")
        records, next_token = await detached(
            self.manager.services.store.list_sessions(
                call.tenant,
                prefix=request.prefix,
                page_size=request.page_size or DEFAULT_PAGE,
                page_token=request.page_token,
            )
        )
        wanted = request.labels.items()
        return session_pb2.ListSessionsResponse(
            sessions=[
                convert.session(record) for record in records if wanted <= record.labels.items()
            ],
            next_page_token=next_token,
        )

    @unary(_PATH + "DeleteSession", session_pb2.DeleteSessionResponse)
    async def DeleteSession(  # noqa: N802
        self, request: session_pb2.DeleteSessionRequest, call: Call
    ) -> session_pb2.DeleteSessionResponse:
        record = await self.found(call, request.name)
        if request.generation not in ("", record.generation):
            raise GenerationChanged(
                f"session {request.name!r} is of generation {record.generation} now",
                generation=record.generation,
            )

        async def delete(_: SessionRecord) -> SessionRecord:
            store = self.manager.services.store
            await store.delete(record.key, generation=record.generation)
            return record

        found = await self.manager.replace(record.key, delete)
        if isinstance(found, Remote):
            self.elsewhere(call, found.address)
        return session_pb2.DeleteSessionResponse()

    @unary(_PATH + "InspectSession", session_pb2.InspectSessionResponse)
    async def InspectSession(  # noqa: N802
        self, request: session_pb2.InspectSessionRequest, call: Call
    ) -> session_pb2.InspectSessionResponse:
        if request.limit < 0:
            raise BadArgument("limit: not below 0", field="limit")
        actor = await self.owned(call, request.name)
        piece = self.manager.services.tokenizer.piece
        with actor.used():
            await actor.fence()
            try:
                found = await actor.inspect(
                    tuple(request.layers), request.limit or DEFAULT_INSPECTED
                )
            except LayerKeepsNoTokens as error:
                raise BadArgument(f"layers: {error}", field="layers") from None
        return session_pb2.InspectSessionResponse(
            offset=types_pb2.Offset(generation=actor.generation, tokens=found.offset),
            state_checksum=found.checksum,
            heads=[
                session_pb2.RetainedHead(
                    layer=head.layer,
                    head=head.head,
                    kept=head.kept,
                    budget=head.budget,
                    tokens=[
                        session_pb2.RetainedToken(
                            position=token.position,
                            token_id=token.token_id,
                            text=piece(token.token_id),
                            score=token.score,
                            sink=token.sink,
                        )
                        for token in head.tokens
                    ],
                )
                for head in found.heads
            ],
        )
