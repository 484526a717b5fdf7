"""What both clients tell gRPC: options, credentials, and where each method is found."""

from collections.abc import Callable
from typing import Any

import grpc
from google.protobuf.empty_pb2 import Empty

from memoryd_client._errors import BadArgument
from memoryd_client._flow import Rpc
from memoryd_client._types import Tls
from memoryd_proto.v1 import admin_pb2_grpc, memory_pb2_grpc, session_pb2, session_pb2_grpc

OPTIONS: list[tuple[str, int]] = [
    # Our own retries know which calls are idempotent; gRPC's do not.
    ("grpc.enable_retries", 0),
    # gRPC waits up to two minutes before it dials again. A restarted daemon is back in seconds.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # A peer that vanished without closing shows within keepalive time plus timeout.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # An inspection of every head with a high limit is the largest answer.
    ("grpc.max_receive_message_length", 64 << 20),
]


def metadata(api_key: str | None) -> tuple[tuple[str, str], ...]:
    """The credentials that go with every call."""
    if api_key is None:
        return ()
    if not api_key.isascii() or not api_key.isprintable():
        raise BadArgument("The API key holds a character that no key has. Copy it again.")
    return (("authorization", f"Bearer {api_key}"),)


def credentials(tls: Tls) -> grpc.ChannelCredentials:
    """GRPC's form of `tls`."""
    return grpc.ssl_channel_credentials(
        tls.root_certificates, tls.private_key, tls.certificate_chain
    )


def blocking(target: str, tls: Tls | None) -> grpc.Channel:
    """A channel for blocking calls; it connects when it is first used."""
    if tls is None:
        return grpc.insecure_channel(target, OPTIONS)
    return grpc.secure_channel(target, credentials(tls), OPTIONS)


class Methods:
    """The callables of a channel, blocking or asyncio alike."""

    def __init__(self, channel: Any) -> None:
        self._stubs: dict[str, object] = {
            "session": session_pb2_grpc.SessionServiceStub(channel),
            "memory": memory_pb2_grpc.MemoryServiceStub(channel),
            "admin": admin_pb2_grpc.AdminServiceStub(channel),
        }
        # On the wire one answer is a stream of one, and so an import is driven like an append.
        self._import = channel.stream_stream(
            "/memoryd.v1.SessionService/ImportSession",
            request_serializer=session_pb2.ImportSessionRequest.SerializeToString,
            response_deserializer=session_pb2.ImportSessionResponse.FromString,
        )
        self._health = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=Empty.SerializeToString,
            response_deserializer=bytes,
        )

    def find(self, rpc: Rpc) -> Callable[..., Any]:
        """The callable of one method."""
        if rpc.service == "health":
            return self._health  # type: ignore[no-any-return]
        if rpc.method == "ImportSession":
            return self._import  # type: ignore[no-any-return]
        method: Callable[..., Any] = getattr(self._stubs[rpc.service], rpc.method)
        return method
