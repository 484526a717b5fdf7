"""The part of SessionService that reads sessions again: verify and migrate."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing

from memoryd.detached import detached
from memoryd.rpc import convert
from memoryd.rpc.calls import Call, streaming
from memoryd.rpc.object_service import ObjectCalls
from memoryd.sessions.migrating import migrate_in_place, migrate_to
from memoryd.sessions.verifying import Kind, Rebuilding, Verification, verify
from memoryd_proto.v1 import session_pb2, types_pb2

_PATH = "/memoryd.v1.SessionService/"

_KINDS = {
    Kind.UNREADABLE: session_pb2.DIFFERENCE_KIND_UNREADABLE,
    Kind.TOKENS: session_pb2.DIFFERENCE_KIND_TOKENS,
    Kind.TEXT: session_pb2.DIFFERENCE_KIND_TEXT,
    Kind.STATE: session_pb2.DIFFERENCE_KIND_STATE,
}


class RebuildCalls(ObjectCalls):
    """See session.proto."""

    @streaming(_PATH + "VerifySession", session_pb2.VerifySessionResponse)
    async def VerifySession(  # noqa: N802
        self, request: session_pb2.VerifySessionRequest, call: Call
    ) -> AsyncGenerator[session_pb2.VerifySessionResponse]:
        actor = await self.owned(call, request.name)
        with actor.used():
            await actor.fence()
            async with aclosing(verify(self.manager, actor)) as events:
                async for event in events:
                    if isinstance(event, Verification):
                        yield session_pb2.VerifySessionResponse(verification=_verification(event))
                    elif request.report_progress:
                        yield session_pb2.VerifySessionResponse(progress=_progress(event))

    @streaming(_PATH + "MigrateSession", session_pb2.MigrateSessionResponse)
    async def MigrateSession(  # noqa: N802
        self, request: session_pb2.MigrateSessionRequest, call: Call
    ) -> AsyncGenerator[session_pb2.MigrateSessionResponse]:
        key = call.key(request.name)
        async with AsyncExitStack() as stack:
            if request.new_name:
                new_key = call.key(request.new_name)
                await detached(self.objects.refuse_existing(new_key))
                state_bytes = self.host.info.state_bytes
                await stack.enter_async_context(self.quotas.new_session(new_key, state_bytes))
                migrating = migrate_to(self.manager, key, new_key)
            else:
                stack.callback(self.quotas.changed, key)
                migrating = migrate_in_place(self.manager, key)
            events = await stack.enter_async_context(aclosing(migrating))
            async for event in events:
                if not isinstance(event, Rebuilding):
                    yield session_pb2.MigrateSessionResponse(session=convert.session(event))
                elif request.report_progress:
                    yield session_pb2.MigrateSessionResponse(progress=_progress(event))


def _progress(seen: Rebuilding) -> session_pb2.Rebuilding:
    return session_pb2.Rebuilding(
        read_tokens=seen.tokens, archive_bytes=seen.archive, target_archive_bytes=seen.archive_end
    )


def _verification(found: Verification) -> session_pb2.Verification:
    message = session_pb2.Verification(
        offset=types_pb2.Offset(generation=found.offset.generation, tokens=found.offset.tokens),
        from_tokens=found.begin,
        from_archive=found.from_archive,
        state_checksum=found.checksum,
        rebuilt_checksum=found.rebuilt,
    )
    if found.difference is not None:
        message.difference = _KINDS[found.difference.kind]
        message.difference_tokens = found.difference.tokens
        message.detail = found.difference.detail
    return message
