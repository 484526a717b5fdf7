"""The flows of all calls that send one request and get one answer, or pages of answers.

Only idempotent calls are tried again: reads, an append that names its writer, a deletion that
names its generation, and a creation that may find the session there already.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any, TypeVar

from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from memoryd_client import _requests, _responses
from memoryd_client._append import WriterNumbers
from memoryd_client._errors import (
    BadArgument,
    GenerationChanged,
    KeyNotFound,
    MemorydError,
    SessionExists,
    SessionNotFound,
)
from memoryd_client._flow import Emit, Flow, Invoke, Rpc, Sleep
from memoryd_client._retry import Attempts
from memoryd_client._types import (
    ApiKey,
    AppendResult,
    Inspection,
    ModelInfo,
    NewApiKey,
    Offset,
    Quota,
    Role,
    Session,
    Stats,
)
from memoryd_proto.v1 import admin_pb2, memory_pb2, session_pb2

T = TypeVar("T")

# grpc.health.v1 spelled out, because two messages of one field do not merit a dependency: an
# empty request asks for the whole server, and field 1 of the answer is 1 for SERVING.
_SERVING = b"\x08\x01"


def unary(rpc: Rpc, request: Message, parse: Callable[[Any], T], attempts: Attempts) -> Flow[T]:
    """One request, one answer, tried again as `attempts` allows."""
    while True:
        try:
            response = yield Invoke(rpc, request, attempts.time_left())
        except MemorydError as error:
            yield Sleep(attempts.pause_after(error))
        else:
            yield Emit(parse(response))
            return


def create_session(
    name: str,
    model: str,
    ttl: timedelta | None,
    labels: Mapping[str, str],
    archive: bool,
    exist_ok: bool,
    attempts: Attempts,
) -> Flow[Session]:
    """Create; with exist_ok a session that is there already is as good."""
    if exist_ok and not name:
        raise BadArgument("exist_ok needs a name: give one, or leave exist_ok out.")
    request = _requests.create_session(name, model, ttl, labels, archive)
    try:
        yield from unary(
            Rpc("session", "CreateSession"),
            request,
            lambda response: _responses.session(response.session),
            attempts,
        )
    except SessionExists:
        if not exist_ok:
            raise
        yield from get_session(name, attempts)


def get_session(name: str, attempts: Attempts) -> Flow[Session]:
    """Read one session."""
    return unary(
        Rpc("session", "GetSession"),
        session_pb2.GetSessionRequest(name=name),
        lambda response: _responses.session(response.session),
        attempts,
    )


def list_sessions(
    prefix: str,
    labels: Mapping[str, str],
    page_size: int,
    new_attempts: Callable[[], Attempts],
) -> Flow[Session]:
    """Every session, page after page; each page has the client's whole timeout."""
    token = ""
    attempts = new_attempts()
    while True:
        request = session_pb2.ListSessionsRequest(
            prefix=prefix, labels=dict(labels), page_size=page_size, page_token=token
        )
        try:
            page = yield Invoke(Rpc("session", "ListSessions"), request, attempts.time_left())
        except MemorydError as error:
            yield Sleep(attempts.pause_after(error))
            continue
        attempts = new_attempts()
        for message in page.sessions:
            yield Emit(_responses.session(message))
        token = page.next_page_token
        if not token:
            return


def delete_session(name: str, generation: str, attempts: Attempts) -> Flow[None]:
    """Delete; a retry that finds the generation gone has done its work earlier."""
    request = session_pb2.DeleteSessionRequest(name=name, generation=generation)
    try:
        yield from unary(Rpc("session", "DeleteSession"), request, lambda _response: None, attempts)
    except (SessionNotFound, GenerationChanged):
        if not attempts.failed_before:
            raise
        yield Emit(None)


def inspect(name: str, layers: Sequence[int], limit: int, attempts: Attempts) -> Flow[Inspection]:
    """What each head has kept."""
    return unary(
        Rpc("session", "InspectSession"),
        session_pb2.InspectSessionRequest(name=name, layers=layers, limit=limit),
        _responses.inspection,
        attempts,
    )


def append(
    session: str,
    numbers: WriterNumbers,
    content: _requests.Content | Sequence[_requests.Content],
    role: Role,
    expected_offset: Offset | None,
    attempts: Attempts,
) -> Flow[AppendResult]:
    """The next message of a writer."""
    request = memory_pb2.AppendRequest(
        session=session,
        writer_id=numbers.writer_id,
        seq=numbers.seq,
        pieces=_requests.pieces(content, role),
        expected_offset=_requests.offset(expected_offset),
    )
    try:
        yield from unary(Rpc("memory", "Append"), request, _responses.appended, attempts)
    except BaseException:
        numbers.failed()
        raise
    numbers.applied()


def cancel_chat(session: str, request_id: str, attempts: Attempts) -> Flow[None]:
    """End a chat for good."""
    return unary(
        Rpc("memory", "CancelChat"),
        memory_pb2.CancelChatRequest(session=session, request_id=request_id),
        lambda _response: None,
        attempts,
    )


def get_model(attempts: Attempts) -> Flow[ModelInfo]:
    """The model that the daemon serves."""
    return unary(
        Rpc("admin", "GetModel"), admin_pb2.GetModelRequest(), _responses.model_info, attempts
    )


def get_stats(attempts: Attempts) -> Flow[Stats]:
    """Figures of the daemon."""
    return unary(Rpc("admin", "GetStats"), admin_pb2.GetStatsRequest(), _responses.stats, attempts)


def drain(attempts: Attempts) -> Flow[int]:
    """End the daemon; the number of sessions that it released."""
    return unary(
        Rpc("admin", "Drain"),
        admin_pb2.DrainRequest(),
        lambda response: response.sessions_released,
        attempts,
    )


def create_api_key(tenant: str, scopes: Sequence[str], attempts: Attempts) -> Flow[NewApiKey]:
    """Make a key."""
    return unary(
        Rpc("admin", "CreateApiKey"),
        admin_pb2.CreateApiKeyRequest(tenant=tenant, scopes=scopes),
        _responses.new_api_key,
        attempts,
    )


def list_api_keys(tenant: str, attempts: Attempts) -> Flow[list[ApiKey]]:
    """All keys, or those of one tenant."""
    return unary(
        Rpc("admin", "ListApiKeys"),
        admin_pb2.ListApiKeysRequest(tenant=tenant),
        lambda response: [_responses.api_key(key) for key in response.keys],
        attempts,
    )


def revoke_api_key(identity: str, attempts: Attempts) -> Flow[None]:
    """Revoke; a retry that finds the key gone has done its work earlier."""
    request = admin_pb2.RevokeApiKeyRequest(id=identity)
    try:
        yield from unary(Rpc("admin", "RevokeApiKey"), request, lambda _response: None, attempts)
    except KeyNotFound:
        if not attempts.failed_before:
            raise
        yield Emit(None)


def rotate_api_key(identity: str, grace: timedelta | None, attempts: Attempts) -> Flow[NewApiKey]:
    """Replace a key."""
    request = admin_pb2.RotateApiKeyRequest(id=identity)
    if grace is not None:
        request.grace.FromTimedelta(grace)
    return unary(Rpc("admin", "RotateApiKey"), request, _responses.new_api_key, attempts)


def get_quota(tenant: str, attempts: Attempts) -> Flow[Quota]:
    """What a tenant may have and uses."""
    return unary(
        Rpc("admin", "GetQuota"),
        admin_pb2.GetQuotaRequest(tenant=tenant),
        _responses.quota,
        attempts,
    )


def set_quota(
    tenant: str, limits: Mapping[str, int | None], defaults: Sequence[str], attempts: Attempts
) -> Flow[Quota]:
    """Change what a tenant may have; None leaves a limit."""
    return unary(
        Rpc("admin", "SetQuota"),
        admin_pb2.SetQuotaRequest(tenant=tenant, defaults=defaults, **limits),
        _responses.new_quota,
        attempts,
    )


def discard_session(tenant: str, name: str, attempts: Attempts) -> Flow[int]:
    """Delete a session that cannot be read; a retry that finds it gone has done its work."""
    request = admin_pb2.DiscardSessionRequest(tenant=tenant, name=name)
    try:
        yield from unary(
            Rpc("admin", "DiscardSession"),
            request,
            lambda response: response.keys_deleted,
            attempts,
        )
    except SessionNotFound:
        if not attempts.failed_before:
            raise
        yield Emit(0)


def is_serving(attempts: Attempts) -> Flow[bool]:
    """The standard health check of the whole server."""
    return unary(Rpc("health", "Check"), Empty(), lambda response: response == _SERVING, attempts)
