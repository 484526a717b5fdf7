"""AdminService: the model, figures, and the end."""

import asyncio
from importlib.metadata import version
from typing import Any, NoReturn

import psutil
from google.protobuf import timestamp_pb2

from memoryd.errors import NotInThisVersion, StorageUnavailable
from memoryd.rpc.calls import Call, Servicer, detached, unary
from memoryd_proto.v1 import admin_pb2, admin_pb2_grpc

_PATH = "/memoryd.v1.AdminService/"


class AdminService(Servicer, admin_pb2_grpc.AdminServiceServicer):
    """See admin.proto."""

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
        )

    @unary(_PATH + "GetStats", admin_pb2.GetStatsResponse)
    async def GetStats(  # noqa: N802
        self,
        request: admin_pb2.GetStatsRequest,  # noqa: ARG002
        call: Call,  # noqa: ARG002
    ) -> admin_pb2.GetStatsResponse:
        host, services = self.host, self.manager.services
        engine = services.engine.stats()
        try:
            redis_used = (await detached(services.store.memory())).used
        except StorageUnavailable:
            redis_used = 0
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
            redis_used_bytes=redis_used,
            storage=host.storage_name,
            durability=host.durability,
            draining=host.draining.is_set(),
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
    async def CreateApiKey(self, request: Any, call: Call) -> NoReturn:  # noqa: N802, ARG002
        _by_settings()

    @unary(_PATH + "ListApiKeys", admin_pb2.ListApiKeysResponse)
    async def ListApiKeys(self, request: Any, call: Call) -> NoReturn:  # noqa: N802, ARG002
        _by_settings()

    @unary(_PATH + "RevokeApiKey", admin_pb2.RevokeApiKeyResponse)
    async def RevokeApiKey(self, request: Any, call: Call) -> NoReturn:  # noqa: N802, ARG002
        _by_settings()


def _by_settings() -> NoReturn:
    raise NotInThisVersion("keys are set by api_keys in the configuration file in this version")
