"""Passing a call on to the daemon that owns its session: one hop, the caller's credentials."""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from typing import Any

import grpc
from google.protobuf.message import Message

from memoryd.errors import OwnerUnreachable
from memoryd.rpc.status import DETAILS_KEY

HOP_KEY = "memoryd-hop"
_CREDENTIALS = "authorization"
RETRY_SECONDS = 0.5
MAX_RECONNECT_MS = 1000


class RemoteError(Exception):
    """The owner refused the call; its status goes to the caller as it is."""

    def __init__(
        self, code: grpc.StatusCode, message: str, trailers: Sequence[tuple[str, Any]]
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.trailers = trailers


class Peers:
    """Connections to other daemons, kept open. credentials: None where they speak plain text."""

    def __init__(
        self,
        options: Sequence[tuple[str, Any]],
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        self._credentials = credentials
        # A daemon that comes back at its address is to be found soon, not after grpc's two minutes.
        self._options = (*options, ("grpc.max_reconnect_backoff_ms", MAX_RECONNECT_MS))
        self._channels: dict[str, grpc.aio.Channel] = {}

    async def close(self) -> None:
        for channel in self._channels.values():
            await channel.close()

    async def unary(
        self,
        address: str,
        path: str,
        request: Message,
        response_type: type[Message],
        context: "grpc.aio.ServicerContext[Any, Any]",
        headers: Mapping[str, str],
    ) -> Message:
        method = self._channel(address).unary_unary(
            path,
            request_serializer=type(request).SerializeToString,
            response_deserializer=response_type.FromString,
        )
        call = method(request, **_terms(context, headers))
        try:
            response: Message = await call
        except grpc.aio.AioRpcError as error:
            raise _translated(error, address) from None
        return response

    async def stream(
        self,
        address: str,
        path: str,
        request: Message | AsyncIterator[Message],
        response_type: type[Message],
        context: "grpc.aio.ServicerContext[Any, Any]",
        headers: Mapping[str, str],
    ) -> AsyncGenerator[Message]:
        """Responses of the owner, for one request or for a stream of them."""
        channel = self._channel(address)
        make: Any = channel.unary_stream if isinstance(request, Message) else channel.stream_stream
        method = make(
            path,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=response_type.FromString,
        )
        call = method(request, **_terms(context, headers))
        try:
            async for response in call:
                yield response
        except grpc.aio.AioRpcError as error:
            raise _translated(error, address) from None
        finally:
            call.cancel()

    def _channel(self, address: str) -> grpc.aio.Channel:
        if address not in self._channels:
            self._channels[address] = (
                grpc.aio.insecure_channel(address, options=self._options)
                if self._credentials is None
                else grpc.aio.secure_channel(address, self._credentials, options=self._options)
            )
        return self._channels[address]


def _terms(
    context: "grpc.aio.ServicerContext[Any, Any]", headers: Mapping[str, str]
) -> dict[str, Any]:
    """Metadata and timeout of the call to the owner: the caller's credentials, and `headers`."""
    credentials = [
        (key, value) for key, value in context.invocation_metadata() or () if key == _CREDENTIALS
    ]
    return {
        "metadata": [*credentials, *headers.items(), (HOP_KEY, "1")],
        "timeout": context.time_remaining(),
    }


def _translated(error: grpc.aio.AioRpcError, address: str) -> Exception:
    trailers = [
        (key, value) for key, value in error.trailing_metadata() or () if key == DETAILS_KEY
    ]
    # INTERNAL is what grpc.aio makes of any status where a write failed as the call ended
    # (github.com/grpc/grpc/issues/36066); asked again, the owner says what it was. CANCELLED is a
    # call that reached a server as it ended: one that was given up here raises CancelledError.
    lost = (
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.CANCELLED,
    )
    if error.code() in lost and not trailers:
        return OwnerUnreachable(
            f"the session's owner at {address} does not answer; retry until another takes over",
            retry_after=RETRY_SECONDS,
            owner=address,
        )
    return RemoteError(error.code(), error.details() or "", trailers)
