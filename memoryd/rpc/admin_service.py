"""AdminService: the model, figures, the end, API keys, quotas, and sessions beyond reading."""

import asyncio
from importlib.metadata import version

import psutil
import structlog
from google.protobuf import timestamp_pb2

from memoryd.detached import detached
from memoryd.quotas.questions import Question
from memoryd.rpc import convert
from memoryd.rpc.calls import Call, Host, Servicer, unary
from memoryd.sessions.discarding import discard
from memoryd.storage.keys import SessionKey, validate_name
from memoryd_proto.v1 import admin_pb2, admin_pb2_grpc

logger = structlog.get_logger(__name__)

_PATH = "/memoryd.v1.AdminService/"
STATS_SECONDS = 2.0
"""How long a server of Redis may take to tell its figures."""


class AdminService(Servicer, admin_pb2_grpc.AdminServiceServicer):
    """See admin.proto."""

    def __init__(self, host: Host) -> None:
        super().__init__(host)
        self._memory = Question(host.manager.services.store.memory, patience=STATS_SECONDS)

    @unary(_PATH + "GetModel", admin_pb2.GetModelResponse)
    async def GetModel(  # noqa: N802
        self,
        request: admin_pb2.GetModelRequest,  # noqa: ARG002
        call: Call,  # noqa: ARG002
    ) -> admin_pb2.GetModelResponse:
        info = self.host.info
        return admin_pb2.GetModelResponse(
            model=info.model,
            fingerprint=info.fingerprint,
            numerics=info.numerics,
            layers=info.layer_kinds,
            parameters=info.parameters,
            vocab_size=info.vocab_size,
            chunk=info.chunk,
            state_bytes=info.state_bytes,
            max_prompt_tokens=self.manager.services.limits.max_prompt_tokens,
            notes=info.notes,
            token_bytes=info.token_bytes,
        )

    @unary(_PATH + "GetStats", admin_pb2.GetStatsResponse)
    async def GetStats(  # noqa: N802
        self,
        request: admin_pb2.GetStatsRequest,  # noqa: ARG002
        call: Call,  # noqa: ARG002
    ) -> admin_pb2.GetStatsResponse:
        host, services = self.host, self.manager.services
        engine = services.engine.stats()
        # Whoever asks how a daemon is does so when servers are down, too.
        memory = await self._memory.answer()
        start = timestamp_pb2.Timestamp()
        start.FromMilliseconds(host.start_ms)
        return admin_pb2.GetStatsResponse(
            version=version("memoryd"),
            daemon_id=services.daemon_id,
            start_time=start,
            sessions=len(self.manager.actors),
            slots_used=engine.slots_used,
            slots_total=engine.slots_total,
            lanes_used=engine.lanes_used,
            lanes_total=engine.lanes_total,
            tokens_appended=services.counters.tokens_appended,
            tokens_absorbed=engine.absorbed_tokens,
            tokens_generated=engine.generated_tokens,
            backlog_tokens=sum(actor.backlog for actor in self.manager.actors),
            checkpoints=services.counters.checkpoints,
            resident_bytes=psutil.Process().memory_info().rss,
            redis_used_bytes=memory.used if memory is not None else 0,
            missing=() if memory is not None else ("redis_used_bytes",),
            storage=host.storage_name,
            durability=host.durability,
            draining=host.draining.is_set(),
            tasks=len(asyncio.all_tasks()),
        )

    @unary(_PATH + "Drain", admin_pb2.DrainResponse)
    async def Drain(  # noqa: N802
        self,
        request: admin_pb2.DrainRequest,  # noqa: ARG002
        call: Call,  # noqa: ARG002
    ) -> admin_pb2.DrainResponse:
        task = asyncio.current_task()
        self.host.running -= {task}
        released = await self.host.drain()
        self.host.shut_down()
        return admin_pb2.DrainResponse(sessions_released=released)

    @unary(_PATH + "CreateApiKey", admin_pb2.CreateApiKeyResponse)
    async def CreateApiKey(  # noqa: N802
        self,
        request: admin_pb2.CreateApiKeyRequest,
        call: Call,
    ) -> admin_pb2.CreateApiKeyResponse:
        tenant = validate_name(request.tenant, "tenant name")
        scopes = convert.scopes(request.scopes)
        now_ms = self.manager.services.now_ms()
        record, secret = await detached(self.host.api_keys.create(tenant, scopes, now_ms))
        logger.info("api_key_created", key_id=record.id, of=tenant, scopes=scopes, by=call.tenant)
        return admin_pb2.CreateApiKeyResponse(key=convert.api_key(record), secret=secret)

    @unary(_PATH + "ListApiKeys", admin_pb2.ListApiKeysResponse)
    async def ListApiKeys(  # noqa: N802
        self,
        request: admin_pb2.ListApiKeysRequest,
        call: Call,  # noqa: ARG002
    ) -> admin_pb2.ListApiKeysResponse:
        records = await detached(self.host.api_keys.keys(request.tenant))
        return admin_pb2.ListApiKeysResponse(keys=[convert.api_key(record) for record in records])

    @unary(_PATH + "RevokeApiKey", admin_pb2.RevokeApiKeyResponse)
    async def RevokeApiKey(  # noqa: N802
        self,
        request: admin_pb2.RevokeApiKeyRequest,
        call: Call,
    ) -> admin_pb2.RevokeApiKeyResponse:
        await detached(self.host.api_keys.revoke(request.id))
        self.host.authenticator.forget(request.id)
        logger.info("api_key_revoked", key_id=request.id, by=call.tenant)
        return admin_pb2.RevokeApiKeyResponse()

    @unary(_PATH + "RotateApiKey", admin_pb2.RotateApiKeyResponse)
    async def RotateApiKey(  # noqa: N802
        self,
        request: admin_pb2.RotateApiKeyRequest,
        call: Call,
    ) -> admin_pb2.RotateApiKeyResponse:
        grace_ms = convert.grace_ms(request.grace) if request.HasField("grace") else 0
        now_ms = self.manager.services.now_ms()
        record, secret = await detached(self.host.api_keys.rotate(request.id, grace_ms, now_ms))
        self.host.authenticator.forget(request.id)
        logger.info("api_key_rotated", key_id=request.id, new=record.id, by=call.tenant)
        return admin_pb2.RotateApiKeyResponse(key=convert.api_key(record), secret=secret)

    @unary(_PATH + "GetQuota", admin_pb2.GetQuotaResponse)
    async def GetQuota(  # noqa: N802
        self,
        request: admin_pb2.GetQuotaRequest,
        call: Call,  # noqa: ARG002
    ) -> admin_pb2.GetQuotaResponse:
        tenant = validate_name(request.tenant, "tenant name")
        limits, own, used = await detached(self.quotas.show(tenant))
        return admin_pb2.GetQuotaResponse(
            limits=convert.quota(limits), own=own, used=convert.quota(used)
        )

    @unary(_PATH + "SetQuota", admin_pb2.SetQuotaResponse)
    async def SetQuota(  # noqa: N802
        self, request: admin_pb2.SetQuotaRequest, call: Call
    ) -> admin_pb2.SetQuotaResponse:
        tenant = validate_name(request.tenant, "tenant name")
        changes = convert.quota_changes(request)
        limits, own = await detached(self.quotas.set_limits(tenant, changes))
        logger.info("quota_set", of=tenant, limits=changes, by=call.tenant)
        return admin_pb2.SetQuotaResponse(limits=convert.quota(limits), own=own)

    @unary(_PATH + "DiscardSession", admin_pb2.DiscardSessionResponse)
    async def DiscardSession(  # noqa: N802
        self, request: admin_pb2.DiscardSessionRequest, call: Call
    ) -> admin_pb2.DiscardSessionResponse:
        key = SessionKey(request.tenant, request.name)
        deleted = await detached(discard(self.manager, key))
        logger.warning("session_discarded", session=str(key), keys=deleted, by=call.tenant)
        return admin_pb2.DiscardSessionResponse(keys_deleted=deleted)
