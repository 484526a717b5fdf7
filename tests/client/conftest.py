"""A real gRPC server on a loopback socket whose methods each test scripts, and both clients.

Every test of behaviour runs twice: `connect` gives the blocking client and the asyncio client
behind one blocking surface.
"""

import asyncio
import inspect
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from google.protobuf.any_pb2 import Any as Packed
from google.rpc import error_details_pb2, status_pb2

import memoryd_client
from memoryd_proto.errors import DOMAIN, ERRORS, Reason
from memoryd_proto.v1 import (
    admin_pb2,
    admin_pb2_grpc,
    memory_pb2,
    memory_pb2_grpc,
    session_pb2,
    session_pb2_grpc,
)

QUICK = memoryd_client.Retry(first=0.001, longest=0.002, give_up_after=60.0)


def fail(
    context: grpc.ServicerContext,
    reason: str,
    *,
    message: str = "it failed",
    code: grpc.StatusCode | None = None,
    domain: str = DOMAIN,
    retry_after: float | None = None,
    **facts: str,
) -> None:
    """End the call as the daemon does: a google.rpc.Status in the trailing metadata."""
    code = code or ERRORS[Reason(reason)].code
    status = status_pb2.Status(code=code.value[0], message=message)
    info = error_details_pb2.ErrorInfo(domain=domain, reason=reason, metadata=facts)
    details = [info]
    if retry_after is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromNanoseconds(int(retry_after * 1e9))
        details.append(retry)
    for detail in details:
        packed = Packed()
        packed.Pack(detail)
        status.details.append(packed)
    context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
    context.abort(code, message)


class ScriptedServer:
    """`on(method, *handlers)`: each call takes the next handler, the last one again and again."""

    def __init__(self, port: int = 0) -> None:
        self.stopping = threading.Event()
        self._handlers: dict[str, list[Callable[..., Any]]] = {}
        self.requests: dict[str, list[Any]] = defaultdict(list)
        self.metadata: list[dict[str, str]] = []
        self._server = grpc.server(ThreadPoolExecutor(8))
        for services, register in (
            (session_pb2.DESCRIPTOR, session_pb2_grpc.add_SessionServiceServicer_to_server),
            (memory_pb2.DESCRIPTOR, memory_pb2_grpc.add_MemoryServiceServicer_to_server),
            (admin_pb2.DESCRIPTOR, admin_pb2_grpc.add_AdminServiceServicer_to_server),
        ):
            (service,) = services.services_by_name.values()
            register(self._servicer(service), self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{port}")
        self.target = f"127.0.0.1:{self.port}"
        self._server.start()

    def on(self, method: str, *handlers: Callable[..., Any]) -> None:
        self._handlers[method] = list(handlers)

    def stop(self) -> None:
        stopped = self._server.stop(None)
        self.stopping.set()
        stopped.wait()

    def _servicer(self, service: Any) -> Any:
        methods = {}
        for method in service.methods:
            call = self._stream if method.server_streaming else self._unary
            methods[method.name] = self._bind(call, method.name, method.client_streaming)
        return type("Scripted", (), methods)()

    def _bind(self, call: Callable[..., Any], name: str, many: bool) -> Callable[..., Any]:
        def method(_self: object, request: Any, context: grpc.ServicerContext) -> Any:
            self.metadata.append(dict(context.invocation_metadata()))
            if not many:
                self.requests[name].append(request)
            return call(name, request, context)

        return method

    def _next(self, name: str) -> Callable[..., Any]:
        handlers = self._handlers[name]
        return handlers.pop(0) if len(handlers) > 1 else handlers[0]

    def _unary(self, name: str, request: Any, context: grpc.ServicerContext) -> Any:
        return self._next(name)(request, context)

    def _stream(self, name: str, request: Any, context: grpc.ServicerContext) -> Any:
        yield from self._next(name)(request, context)


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    scripted = ScriptedServer()
    yield scripted
    scripted.stop()


class Blocking:
    """An asyncio object whose coroutines and iterators are run to their results."""

    def __init__(self, inner: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._inner = inner
        self._loop = loop

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._inner, "aclose" if name == "close" else name)
        if not callable(value):
            return value

        def call(*args: Any, **kwargs: Any) -> Any:
            result = value(*args, **kwargs)
            if inspect.isawaitable(result):
                return self._loop.run_until_complete(result)
            if inspect.isasyncgen(result):
                return self._iterate(result)
            return Blocking(result, self._loop)

        return call

    def __iter__(self) -> Iterator[Any]:
        return self._iterate(aiter(self._inner))

    def _iterate(self, iterator: Any) -> Iterator[Any]:
        while True:
            try:
                yield self._loop.run_until_complete(anext(iterator))
            except StopAsyncIteration:
                return


@pytest.fixture(params=["sync", "async"])
def connect(request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """connect(target, **options) -> a client with quick retries; closed at the end."""
    opened: list[Any] = []
    loop = asyncio.new_event_loop()

    def open_client(target: str, **options: Any) -> Any:
        options = {"retry": QUICK, **options}
        if request.param == "sync":
            client: Any = memoryd_client.Client(target, **options)
        else:

            async def make() -> memoryd_client.AsyncClient:
                return memoryd_client.AsyncClient(target, **options)

            client = Blocking(loop.run_until_complete(make()), loop)
        opened.append(client)
        return client

    yield open_client
    for client in opened:
        client.close()
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()
