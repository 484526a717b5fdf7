"""Arguments -> protobuf requests. Pure; raises `BadArgument` for what could never be sent."""

from collections.abc import Mapping, Sequence
from datetime import timedelta

from google.protobuf.duration_pb2 import Duration

from memoryd_client._errors import BadArgument
from memoryd_client._types import Document, Freshness, Offset, Piece, Role, Sampling, Turn
from memoryd_proto.v1 import memory_pb2, session_pb2, types_pb2

Content = str | bytes | Piece | Turn | Document

_ROLES = {
    Role.SYSTEM: types_pb2.ROLE_SYSTEM,
    Role.USER: types_pb2.ROLE_USER,
    Role.ASSISTANT: types_pb2.ROLE_ASSISTANT,
    Role.DOCUMENT: types_pb2.ROLE_DOCUMENT,
    Role.RAW: types_pb2.ROLE_RAW,
}
_FRESHNESS = {
    Freshness.ACKED: memory_pb2.FRESHNESS_ACKED,
    Freshness.ABSORBED: memory_pb2.FRESHNESS_ABSORBED,
}


def create_session(
    name: str,
    model: str,
    ttl: timedelta | None,
    labels: Mapping[str, str],
    archive: bool,
) -> session_pb2.CreateSessionRequest:
    """A request to create `name`; ttl None lives until deleted."""
    duration = None
    if ttl is not None:
        duration = Duration()
        duration.FromTimedelta(ttl)
    return session_pb2.CreateSessionRequest(
        name=name, model=model, ttl=duration, labels=dict(labels), archive=archive
    )


def update_session(
    name: str, ttl: timedelta | None, labels: Mapping[str, str]
) -> session_pb2.UpdateSessionRequest:
    """A request to change what a session was created with; ttl None leaves it."""
    duration = None
    if ttl is not None:
        duration = Duration()
        duration.FromTimedelta(ttl)
    return session_pb2.UpdateSessionRequest(name=name, ttl=duration, labels=dict(labels))


def offset(value: Offset | None) -> types_pb2.Offset | None:
    """The message of an offset; None stays absent."""
    if value is None:
        return None
    return types_pb2.Offset(generation=value.generation, tokens=value.tokens)


def utf8(text: str | bytes) -> bytes:
    """Bytes as they are, text as UTF-8; a lone surrogate is `BadArgument`."""
    if isinstance(text, bytes):
        return text
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise BadArgument(
            f"The text holds a lone surrogate at character {error.start}, which UTF-8 cannot "
            "carry. Replace it, or send bytes."
        ) from None


def piece(role: Role | str, content: str | bytes, *, is_open: bool = False) -> types_pb2.Piece:
    """One piece of a turn or document."""
    try:
        number = _ROLES[Role(role)]
    except ValueError:
        raise BadArgument(f"No role is called {role!r}. Use one of {', '.join(Role)}.") from None
    return types_pb2.Piece(role=number, content=utf8(content), open=is_open)


def pieces(content: Content | Sequence[Content], role: Role) -> list[types_pb2.Piece]:
    """The pieces of one unary append; bare text is a whole turn of `role`."""
    if isinstance(content, Content):
        content = (content,)
    return [_one_piece(item, role) for item in content]


def _one_piece(item: Content, role: Role) -> types_pb2.Piece:
    match item:
        case str() | bytes():
            return piece(role, item)
        case Piece():
            return piece(item.role, item.content, is_open=item.open)
        case Turn():
            return piece(item.role, item.content)
        case Document():
            return piece(Role.DOCUMENT, item.content)
        case _:
            raise unknown_content(item)


def unknown_content(item: object) -> BadArgument:
    """The error for something that is no content."""
    return BadArgument(
        f"Cannot append a {type(item).__name__}. Give str, bytes, Piece, Turn or Document."
    )


def sampling(value: Sampling) -> types_pb2.Sampling:
    """The message of sampling options."""
    return types_pb2.Sampling(
        temperature=value.temperature,
        top_k=value.top_k,
        top_p=value.top_p,
        repetition_penalty=value.repetition_penalty,
        seed=value.seed,
        max_tokens=value.max_tokens,
        stop=value.stop,
    )


def query(
    session: str,
    question: str | bytes,
    raw: bool,
    reply_prefix: str | bytes,
    freshness: Freshness,
    min_offset: Offset | None,
    allow_stale: bool,
    options: Sampling | None,
) -> memory_pb2.QueryRequest:
    """A read-only question."""
    return memory_pb2.QueryRequest(
        session=session,
        question=utf8(question),
        raw=raw,
        reply_prefix=utf8(reply_prefix),
        freshness=_FRESHNESS[Freshness(freshness)],
        min_offset=offset(min_offset),
        allow_stale=allow_stale,
        sampling=sampling(options or Sampling()),
    )


def chat(
    session: str,
    request_id: str,
    message: str | bytes,
    options: Sampling | None,
) -> memory_pb2.ChatRequest:
    """A user turn to be remembered with its reply."""
    return memory_pb2.ChatRequest(
        session=session,
        request_id=request_id,
        message=utf8(message),
        sampling=sampling(options or Sampling()),
    )
