"""The driver that awaits: carries out a flow's effects with `grpc.aio`."""

import asyncio
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any, TypeVar

import grpc

from memoryd_client._bidi import BidiStream
from memoryd_client._channel import Methods
from memoryd_client._errors import from_failed_call
from memoryd_client._flow import (
    NOTHING_YET,
    CloseWrites,
    Effect,
    Emit,
    Flow,
    Invoke,
    Open,
    Pull,
    Read,
    Sleep,
    Write,
)
from memoryd_client._trace import CallSpan

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

T = TypeVar("T")


class _ServerStream:
    """One request, many responses."""

    def __init__(self, call: Any) -> None:
        self._call = call

    async def read(self, *, wait: bool) -> object:
        del wait  # a flow polls bidirectional streams only
        response = await self._call.read()
        return None if response is grpc.aio.EOF else response

    async def close(self) -> None:
        self._call.cancel()


class _Bidi(BidiStream):
    """A bidirectional stream whose responses wait in a queue of the event loop."""

    def __init__(self, method: Any, arguments: dict[str, Any]) -> None:
        self._incoming: asyncio.Queue[object] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def deliver(response: object) -> None:
            loop.call_soon_threadsafe(self._incoming.put_nowait, response)

        super().__init__(method, arguments, deliver)

    async def read(self, *, wait: bool) -> object:
        if not wait:
            await asyncio.sleep(0)
            if self._incoming.empty():
                return NOTHING_YET
        response = await self._incoming.get()
        if isinstance(response, grpc.RpcError):
            raise response
        return response

    async def close(self) -> None:
        self.cancel()
        await asyncio.to_thread(self.join)


class AsyncExchange:
    """The effects of one flow."""

    def __init__(
        self,
        methods: Methods,
        blocking_methods: Methods,
        metadata: tuple[tuple[str, str], ...],
        tracer: "Tracer | None",
        source: AsyncGenerator[object, None],
    ) -> None:
        self._methods = methods
        self._blocking_methods = blocking_methods
        self._metadata = metadata
        self._source = source
        self._tracer = tracer
        self._span = CallSpan()
        self._stream: Any = None

    async def perform(self, effect: Effect) -> object:
        try:
            return await self._perform(effect)
        except grpc.RpcError as error:
            self._span.end(error)
            raise

    async def _perform(self, effect: Effect) -> object:
        match effect:
            case Invoke():
                self._span = span = CallSpan(self._tracer, effect.rpc)
                response = await self._methods.find(effect.rpc)(
                    effect.request,
                    timeout=effect.timeout,
                    metadata=(*self._metadata, *span.metadata),
                )
                span.end()
                return response
            case Open():
                await self._open(effect)
            case Write():
                self._stream.write(effect.message)
            case CloseWrites():
                self._stream.close_writes()
            case Read():
                return await self._stream.read(wait=effect.wait)
            case Pull():
                return await anext(self._source, None)
            case Sleep():
                await asyncio.sleep(effect.seconds)
        return None

    async def _open(self, effect: Open) -> None:
        await self._leave()
        self._span = CallSpan(self._tracer, effect.rpc)
        arguments = {"timeout": effect.timeout, "metadata": (*self._metadata, *self._span.metadata)}
        if effect.request is None:
            self._stream = _Bidi(self._blocking_methods.find(effect.rpc), arguments)
        else:
            call = self._methods.find(effect.rpc)(effect.request, **arguments)
            self._stream = _ServerStream(call)

    async def aclose(self) -> None:
        """Leave the open call and the source."""
        await self._leave()
        await self._source.aclose()

    async def _leave(self) -> None:
        # The daemon sees a cancellation, unless the call had ended.
        if self._stream is not None:
            stream, self._stream = self._stream, None
            await stream.close()
        self._span.end()


async def drive(flow: Flow[T], exchange: AsyncExchange, target: str) -> AsyncGenerator[T, None]:
    """Run `flow` and yield what it emits."""
    result: object = None
    failure: Exception | None = None
    try:
        while True:
            try:
                effect = flow.send(result) if failure is None else flow.throw(failure)
            except StopIteration:
                return
            result = failure = None
            if isinstance(effect, Emit):
                yield effect.value
                continue
            try:
                result = await exchange.perform(effect)
            except grpc.RpcError as error:
                failure = from_failed_call(error, target)  # type: ignore[arg-type]
    finally:
        flow.close()
        await exchange.aclose()
