"""Requests that are no messages are refused with a reason, as everything else is.

Left to grpc, bytes that protobuf cannot read end a call with UNKNOWN and a stack trace in the log.
"""

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from memoryd.errors import BadArgument

_OURS = "/memoryd.v1."


@dataclass(frozen=True)
class Undecodable:
    """Stands where the request would: a status cannot be set where requests are decoded."""

    reason: str

    @property
    def refusal(self) -> BadArgument:
        return BadArgument(
            f"the request is not a message of this call ({self.reason}): generate the stubs from "
            "the daemon's .proto files"
        )


class MarkUndecodable(grpc.aio.ServerInterceptor):
    """Hands Undecodable to handlers of one request; a stream of requests raises its refusal."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        if handler is None or not handler_call_details.method.startswith(_OURS):
            return handler
        changes: dict[str, Any] = {"request_deserializer": _marking(handler.request_deserializer)}
        if handler.stream_unary is not None:
            changes["stream_unary"] = _to_one(handler.stream_unary)
        if handler.stream_stream is not None:
            changes["stream_stream"] = _to_many(handler.stream_stream)
        return handler._replace(**changes)


def _marking(deserialize: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def mark(serialized: bytes) -> Any:
        try:
            return deserialize(serialized)
        except DecodeError as error:
            return Undecodable(str(error))

    return mark


async def _decoded(requests: AsyncIterable[Any]) -> AsyncGenerator[Any]:
    async for request in requests:
        if isinstance(request, Undecodable):
            raise request.refusal
        yield request


def _to_one(behavior: Any) -> Any:
    async def handle(requests: AsyncIterable[Any], context: Any) -> Any:
        return await behavior(_decoded(requests), context)

    return handle


def _to_many(behavior: Any) -> Any:
    async def handle(requests: AsyncIterable[Any], context: Any) -> AsyncIterator[Any]:
        async with aclosing(behavior(_decoded(requests), context)) as responses:
            async for response in responses:
                yield response

    return handle
