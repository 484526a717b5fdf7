"""Bare gRPC calls, for tests of what the daemon itself answers: no retries, no checks of ours."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from harness.processes import wait_until
from memoryd_proto.errors import ERRORS, Reason
from memoryd_proto.v1 import (
    admin_pb2_grpc,
    memory_pb2,
    memory_pb2_grpc,
    session_pb2,
    session_pb2_grpc,
    types_pb2,
)

CHUNK = 8  # of the tiny model
CALL_SECONDS = 60.0


@dataclass(frozen=True)
class Refusal:
    """How a call ended. reason: empty where the transport and not the daemon refused it."""

    code: grpc.StatusCode
    message: str
    reason: str
    facts: Mapping[str, str]
    retry_after: float | None


@dataclass(frozen=True)
class Held:
    """All that a session holds: what was acknowledged, and what the model made of it."""

    generation: str
    tokens: int
    tail_bytes: int
    checksum: str


class Calls:
    """Stubs of one daemon, and requests made short."""

    def __init__(self, address: str, *, key: str = "", metadata: Mapping[str, str] | None = None):
        self.channel = grpc.insecure_channel(address)
        self.sessions = session_pb2_grpc.SessionServiceStub(self.channel)
        self.memory = memory_pb2_grpc.MemoryServiceStub(self.channel)
        self.admin = admin_pb2_grpc.AdminServiceStub(self.channel)
        self.metadata = dict(metadata or {})
        if key:
            self.metadata["authorization"] = f"Bearer {key}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.channel.close()

    def call(self, method: Any, request: Any, timeout: float = CALL_SECONDS) -> Any:
        """A unary answer, or the list of a stream's answers."""
        answer = method(request, timeout=timeout, metadata=tuple(self.metadata.items()))
        return list(answer) if isinstance(answer, Iterable) else answer

    def create(self, name: str = "", **fields: Any) -> str:
        request = session_pb2.CreateSessionRequest(name=name, **fields)
        return str(self.call(self.sessions.CreateSession, request).session.name)

    def get(self, name: str, timeout: float = CALL_SECONDS) -> types_pb2.Session:
        request = session_pb2.GetSessionRequest(name=name)
        return self.call(self.sessions.GetSession, request, timeout).session

    def delete(self, name: str, **fields: Any) -> None:
        self.call(
            self.sessions.DeleteSession, session_pb2.DeleteSessionRequest(name=name, **fields)
        )

    def inspect(self, name: str, **fields: Any) -> session_pb2.InspectSessionResponse:
        request = session_pb2.InspectSessionRequest(name=name, **fields)
        return self.call(self.sessions.InspectSession, request)

    def append(
        self,
        session: str,
        content: bytes,
        *,
        role: int = types_pb2.ROLE_DOCUMENT,
        is_open: bool = False,
        timeout: float = CALL_SECONDS,
        **fields: Any,
    ) -> memory_pb2.AppendResponse:
        request = memory_pb2.AppendRequest(
            session=session, pieces=[piece(content, role=role, is_open=is_open)], **fields
        )
        return self.call(self.memory.Append, request, timeout)

    def stream(
        self, messages: Iterable[memory_pb2.AppendStreamRequest]
    ) -> list[memory_pb2.AppendStreamResponse]:
        return self.call(self.memory.AppendStream, iter(messages))

    def query(self, session: str, question: bytes = b"What now?", **fields: Any) -> list[Any]:
        fields.setdefault("sampling", types_pb2.Sampling(max_tokens=4))
        request = memory_pb2.QueryRequest(session=session, question=question, **fields)
        return self.call(self.memory.Query, request)

    def chat(self, session: str, message: bytes, request_id: str, **fields: Any) -> list[Any]:
        fields.setdefault("sampling", types_pb2.Sampling(max_tokens=4))
        request = memory_pb2.ChatRequest(
            session=session, message=message, request_id=request_id, **fields
        )
        return self.call(self.memory.Chat, request)

    def held(self, session: str) -> Held:
        """What the session holds once the model has read every whole chunk of it."""

        def absorbed() -> bool:
            found = self.get(session)
            return found.acked_tokens - found.absorbed_tokens < CHUNK

        self.inspect(session, limit=1)  # opens it where no daemon holds it
        wait_until(absorbed, f"{session} is absorbed")
        found, inspected = self.get(session), self.inspect(session, limit=1)
        return Held(
            found.generation, found.acked_tokens, found.tail_bytes, inspected.state_checksum
        )


def piece(
    content: bytes, *, role: int = types_pb2.ROLE_DOCUMENT, is_open: bool = False
) -> types_pb2.Piece:
    return types_pb2.Piece(role=role, content=content, open=is_open)


def refusal(call: Callable[[], Any]) -> Refusal:
    """How a call that must fail fails."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return told_by(caught.value)


def told_by(error: Any) -> Refusal:
    """What the error of a call says."""
    reason, facts, retry_after = "", {}, None
    for name, value in error.trailing_metadata() or ():
        if name == "grpc-status-details-bin":
            for detail in status_pb2.Status.FromString(value).details:
                info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
                if detail.Unpack(info):
                    reason, facts = info.reason, dict(info.metadata)
                elif detail.Unpack(retry):
                    retry_after = retry.retry_delay.ToTimedelta().total_seconds()
    return Refusal(error.code(), error.details(), reason, facts, retry_after)


def refused_for(reason: Reason, call: Callable[[], Any], says: str = "") -> Refusal:
    """The refusal, which must be of this reason with the code of the table and a sentence."""
    found = refusal(call)
    assert (found.reason, found.code) == (reason.value, ERRORS[reason].code), found
    assert says in found.message, found
    assert len(found.message) > 10, found
    return found
