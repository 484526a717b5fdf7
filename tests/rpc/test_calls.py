"""What every call goes through before its work begins and after it ends."""

import asyncio
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from memoryd.errors import BadArgument
from memoryd.metrics import Metrics
from memoryd.rpc.auth import Authenticator
from memoryd.rpc.calls import Call, Servicer, unary
from memoryd.tracing import NoTracing
from memoryd_proto.v1 import admin_pb2

PATH = "/memoryd.v1.AdminService/GetModel"


class Aborted(Exception):
    pass


class Context:
    """As much of grpc's context as a handler sees. left: seconds until the deadline."""

    def __init__(self, left: float | None = None, **metadata: str) -> None:
        self._left = left
        self._metadata = tuple(metadata.items())
        self.trailers: tuple[Any, ...] = ()
        self.code: grpc.StatusCode | None = None
        self.message = ""

    def invocation_metadata(self) -> tuple[Any, ...]:
        return self._metadata

    def time_remaining(self) -> float | None:
        return self._left

    def set_trailing_metadata(self, trailers: tuple[Any, ...]) -> None:
        self.trailers = trailers

    async def abort(self, code: grpc.StatusCode, message: str, trailers: tuple[Any, ...]) -> None:
        self.code, self.message, self.trailers = code, message, trailers
        raise Aborted

    @property
    def info(self) -> error_details_pb2.ErrorInfo:
        status = status_pb2.Status.FromString(dict(self.trailers)["grpc-status-details-bin"])
        info = error_details_pb2.ErrorInfo()
        assert status.details[0].Unpack(info)
        return info


class Service(Servicer):
    def __init__(self, work: Any) -> None:
        self.work = work
        self.metrics = Metrics()
        super().__init__(
            SimpleNamespace(  # type: ignore[arg-type]
                settings=SimpleNamespace(max_message_bytes=1000),
                authenticator=Authenticator([], None),  # type: ignore[arg-type]
                metrics=self.metrics,
                tracing=NoTracing(),
                draining=asyncio.Event(),
                running=set(),
            )
        )

    @unary(PATH, admin_pb2.GetModelResponse)
    async def get(self, request: Any, call: Call) -> Any:
        return await self.work()

    def ended(self, result: str) -> float | None:
        labels = {"rpc": "GetModel", "tenant": "default", "result": result}
        return self.metrics.registry.get_sample_value("memoryd_calls_total", labels)


async def answer() -> admin_pb2.GetModelResponse:
    return admin_pb2.GetModelResponse(model="m")


async def refuse() -> None:
    raise BadArgument("no", field="f")


async def break_down() -> None:
    raise RuntimeError("a secret detail")


REQUEST = admin_pb2.GetModelRequest()


@pytest.mark.parametrize("left", [0.0, -1.0])
async def test_a_call_that_comes_too_late_is_dropped_before_its_work(left):
    begun = []

    async def work() -> None:
        begun.append(True)

    service, context = Service(work), Context(left)
    with pytest.raises(Aborted):
        await service.get(REQUEST, context)
    assert (begun, context.code) == ([], grpc.StatusCode.DEADLINE_EXCEEDED)
    assert context.info.reason == "DEADLINE"
    assert service.ended("DEADLINE") == 1


@pytest.mark.parametrize("left", [None, 0.1])
async def test_an_answer_carries_the_request_id(left):
    service, context = Service(answer), Context(left, **{"x-request-id": "mine"})
    assert (await service.get(REQUEST, context)).model == "m"
    assert context.trailers == (("x-request-id", "mine"),)
    assert service.ended("OK") == 1


async def test_a_refusal_carries_the_request_id_beside_its_reason():
    service, context = Service(refuse), Context(**{"x-request-id": "mine"})
    with pytest.raises(Aborted):
        await service.get(REQUEST, context)
    assert dict(context.trailers)["x-request-id"] == "mine"
    assert (context.info.reason, dict(context.info.metadata)) == ("BAD_ARGUMENT", {"field": "f"})
    assert service.ended("BAD_ARGUMENT") == 1


async def test_an_internal_error_names_the_request_and_nothing_from_inside():
    service, context = Service(break_down), Context(**{"x-request-id": "mine"})
    with pytest.raises(Aborted):
        await service.get(REQUEST, context)
    assert dict(context.info.metadata) == {"request_id": "mine"}
    assert "request id mine" in context.message
    assert "secret" not in context.message
    assert service.ended("INTERNAL") == 1


async def test_a_call_that_its_caller_leaves_just_ends():
    async def work() -> None:
        await asyncio.Event().wait()

    service, context = Service(work), Context()
    task = asyncio.ensure_future(service.get(REQUEST, context))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert context.code is None
    assert service.ended("CANCELLED") == 1
