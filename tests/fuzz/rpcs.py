"""Every rpc of a running daemon, over a real socket, with messages that nobody meant."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf import duration_pb2, message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from fuzz.noise import number, octets, real, text
from memoryd_proto.errors import ERRORS, Reason
from memoryd_proto.v1 import admin_pb2, memory_pb2, session_pb2, types_pb2

SESSIONS = ("canary", "other", "missing", "")
WRITERS = ("w", "writer", "")
HANGS_AFTER = 60.0
NOT_CALLED = frozenset({"Drain"})  # it would end the run
HARMLESS = frozenset({"canary"})
"""Sessions that no case may write to, delete or replace."""


@dataclass(frozen=True)
class Case:
    """requests: serialised; more than one where the rpc takes a stream."""

    method: MethodDescriptor
    requests: tuple[bytes, ...]


def methods() -> list[MethodDescriptor]:
    """All rpcs of the three services that a case may call."""
    services = [
        session_pb2.DESCRIPTOR.services_by_name["SessionService"],
        memory_pb2.DESCRIPTOR.services_by_name["MemoryService"],
        admin_pb2.DESCRIPTOR.services_by_name["AdminService"],
    ]
    return [
        method
        for service in services
        for method in service.methods
        if method.name not in NOT_CALLED
    ]


def noisy_message(draw: random.Random, descriptor: Descriptor | None, depth: int = 4) -> Message:
    """A message whose fields are absent, near to sense, or at some edge of their type."""
    assert descriptor is not None
    message: Message = message_factory.GetMessageClass(descriptor)()
    for field in descriptor.fields:
        if draw.random() < 0.3:
            continue
        if field.type == FieldDescriptor.TYPE_MESSAGE and depth == 0:
            continue
        entry = field.message_type is not None and field.message_type.GetOptions().map_entry
        if entry:
            for _ in range(draw.randrange(4)):
                getattr(message, field.name)[text(draw)] = text(draw)
        elif field.is_repeated:
            for _ in range(draw.randrange(4)):
                _add(draw, message, field, depth)
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            inner = noisy_message(draw, field.message_type, depth - 1)
            getattr(message, field.name).CopyFrom(inner)
        else:
            setattr(message, field.name, _value(draw, field))
    return message


def _add(draw: random.Random, message: Message, field: FieldDescriptor, depth: int) -> None:
    values = getattr(message, field.name)
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        values.append(noisy_message(draw, field.message_type, depth - 1))
    else:
        values.append(_value(draw, field))


def mend(draw: random.Random, message: Message) -> None:
    """Replaces most fields by what an honest caller sends, so that the rest gets further."""
    for field in message.DESCRIPTOR.fields:
        honest = _HONEST.get(field.name)
        if honest is not None and draw.random() < 0.9:
            message.ClearField(field.name)
            try:
                message.MergeFrom(type(message)(**{field.name: honest}))
            except TypeError:  # a field of this name and another type
                continue


_HONEST: dict[str, Any] = {
    "session": "other",
    "name": "other",
    "snapshot": "pinned",
    "new_name": "copy",
    "writer_id": "w",
    "seq": 1,
    "pieces": [types_pb2.Piece(role=types_pb2.ROLE_USER, content=b"A river.")],
    "question": b"What now?",
    "message": b"What now?",
    "request_id": "r",
    "expected_offset": types_pb2.Offset(),
    "min_offset": types_pb2.Offset(),
    "sampling": types_pb2.Sampling(max_tokens=2),
    "freshness": 1,
    "model": "",
    "generation": "",
    "page_size": 1,
    "page_token": "",
    "labels": {"a": "b"},
    "ttl": duration_pb2.Duration(seconds=60),
}

_BITS = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
    FieldDescriptor.CPPTYPE_ENUM: (-1, 9),
}


def _value(draw: random.Random, field: FieldDescriptor) -> Any:
    if field.type == FieldDescriptor.TYPE_BYTES:
        return draw.choice((b"", b"What now?", octets(draw), text(draw).encode()))
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_BOOL:
            return draw.random() < 0.5
        case FieldDescriptor.CPPTYPE_STRING:
            if field.name in ("session", "name", "new_name"):
                return draw.choice((*SESSIONS, text(draw)))
            if field.name == "writer_id":
                return draw.choice((*WRITERS, text(draw)))
            return text(draw, 300 if draw.random() < 0.05 else 12)
        case FieldDescriptor.CPPTYPE_FLOAT | FieldDescriptor.CPPTYPE_DOUBLE:
            return real(draw)
    low, high = _BITS[field.cpp_type]
    return min(high, max(low, number(draw)))


class Rpcs:
    """Calls every rpc; a call ends in an answer or in a refusal of the table, and soon."""

    name = "rpcs"

    def __init__(self, address: str) -> None:
        self._channel = grpc.insecure_channel(address)
        self._methods = methods()

    def close(self) -> None:
        self._channel.close()

    def draw(self, draw: random.Random) -> Case:
        method = draw.choice(self._methods)
        count = draw.randrange(4) if method.client_streaming else 1
        requests = [self._request(draw, method.input_type) for _ in range(count)]
        return Case(method, tuple(requests))

    def _request(self, draw: random.Random, descriptor: Descriptor) -> bytes:
        if draw.random() < 0.1:
            return octets(draw, 200)
        message = noisy_message(draw, descriptor)
        if draw.random() < 0.5:
            mend(draw, message)
        serialized = message.SerializeToString()
        if serialized and draw.random() < 0.1:
            changed = bytearray(serialized)
            changed[draw.randrange(len(changed))] = draw.randrange(256)
            return bytes(changed)
        return serialized

    def run(self, case: Case) -> str:
        if _harms(case):
            return "not sent"
        try:
            for _ in call(self._channel, case.method, case.requests):
                pass
        except grpc.RpcError as error:
            return _typed(error, case)
        return "answered"


def _harms(case: Case) -> bool:
    """The canary may be asked, and not be changed: that is what the run ends by checking."""
    reads = case.method.name in ("GetSession", "Query", "InspectSession", "ListSnapshots")
    return not reads and any(
        name.encode() in request for name in HARMLESS for request in case.requests
    )


def call(
    channel: Any,
    method: MethodDescriptor,
    requests: Sequence[bytes],
    metadata: Sequence[tuple[str, str]] = (),
) -> Iterator[bytes]:
    """The serialised responses. One request is sent unless the rpc takes a stream of them."""
    path = f"/{method.containing_service.full_name}/{method.name}"
    kind = "stream" if method.client_streaming else "unary"
    make: Any = getattr(channel, f"{kind}_{'stream' if method.server_streaming else 'unary'}")
    sent = iter(requests) if method.client_streaming else requests[0]
    answer = make(path)(sent, timeout=HANGS_AFTER, metadata=metadata)
    if method.server_streaming:
        yield from answer
    else:
        yield answer


def _typed(error: Any, case: Case) -> str:
    """The refusal's reason; fails where the daemon gave none, hung, or blames itself."""
    where = f"{case.method.full_name} {case.requests!r}: {error.code()} {error.details()}"
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            for detail in status_pb2.Status.FromString(value).details:
                info = error_details_pb2.ErrorInfo()
                if detail.Unpack(info):
                    reason = Reason(info.reason)
                    assert ERRORS[reason].code is error.code(), where
                    assert reason is not Reason.INTERNAL, where
                    return reason.value
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED, where  # grpc's own: there is no such rpc
    return "UNIMPLEMENTED"
