"""The driver that awaits: carries out a flow's effects with `grpc.aio`."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message

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

T = TypeVar("T")


class _Stream:
    """An open call and the read that is under way on it."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self._reading: asyncio.Task[object] | None = None

    async def write(self, message: Message) -> None:
        try:
            await self._call.write(message)
        except (asyncio.InvalidStateError, grpc.RpcError):
            return  # the call is over; the next read says why

    async def close_writes(self) -> None:
        try:
            await self._call.done_writing()
        except (asyncio.InvalidStateError, grpc.RpcError):
            return

    async def read(self, *, wait: bool) -> object:
        if self._reading is None:
            self._reading = asyncio.create_task(self._call.read())
        if not wait:
            await asyncio.sleep(0)
            if not self._reading.done():
                return NOTHING_YET
        # Shielded: a cancelled flow cancels the call itself, in close().
        response = await asyncio.shield(self._reading)
        self._reading = None
        return None if response is grpc.aio.EOF else response

    async def close(self) -> None:
        self._call.cancel()
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)


class AsyncExchange:
    """The effects of one flow."""

    def __init__(
        self,
        methods: Methods,
        metadata: tuple[tuple[str, str], ...],
        source: AsyncGenerator[object, None],
    ) -> None:
        self._methods = methods
        self._metadata = metadata
        self._source = source
        self._stream: _Stream | None = None

    async def perform(self, effect: Effect) -> object:
        match effect:
            case Invoke():
                return await self._methods.find(effect.rpc)(
                    effect.request, timeout=effect.timeout, metadata=self._metadata
                )
            case Open():
                await self._open(effect)
            case Write():
                await self._opened.write(effect.message)
            case CloseWrites():
                await self._opened.close_writes()
            case Read():
                return await self._opened.read(wait=effect.wait)
            case Pull():
                return await anext(self._source, None)
            case Sleep():
                await asyncio.sleep(effect.seconds)
        return None

    @property
    def _opened(self) -> _Stream:
        assert self._stream is not None  # noqa: S101  a flow opens before it reads or writes
        return self._stream

    async def _open(self, effect: Open) -> None:
        await self._leave()
        method = self._methods.find(effect.rpc)
        arguments: dict[str, Any] = {"timeout": effect.timeout, "metadata": self._metadata}
        if effect.request is None:
            self._stream = _Stream(method(**arguments))
        else:
            self._stream = _Stream(method(effect.request, **arguments))

    async def aclose(self) -> None:
        """Leave the open call and the source."""
        await self._leave()
        await self._source.aclose()

    async def _leave(self) -> None:
        # The daemon sees a cancellation, unless the call had ended.
        if self._stream is not None:
            stream, self._stream = self._stream, None
            await stream.close()


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
