"""Between protobuf messages and the daemon's own types, with all checks of arguments."""

import math
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from google.protobuf import duration_pb2, timestamp_pb2

from lalte.text import Role
from memoryd.engine.messages import Sampling
from memoryd.errors import BadArgument
from memoryd.scopes import Scope
from memoryd.sessions.actor import Position, SessionActor
from memoryd.sessions.reply import Completion, Delta, Progress, ReplyEvent
from memoryd.sessions.services import Limits, ReplyOptions
from memoryd.sessions.text import Piece, TextState
from memoryd.storage.api_keys import KeyRecord
from memoryd.storage.records import SessionRecord
from memoryd.storage.snapshots import Snapshot
from memoryd.storage.tenants import LIMITS, Quota
from memoryd_proto.v1 import admin_pb2, memory_pb2, session_pb2, types_pb2

MAX_LABELS, MAX_LABEL_NAME, MAX_LABEL_VALUE = 64, 64, 256
MAX_STOPS, MAX_STOP_CHARACTERS = 16, 256
MAX_WRITER_BYTES = MAX_REQUEST_ID_BYTES = 128
MAX_PIECES = 10_000
MAX_LIMIT = 2**53  # of a tenant; scripts compute with doubles
# Both are repeated in refusals, which have to fit into a response's trailers.
MAX_MODEL_BYTES = 256
MAX_GENERATION_CHARACTERS = 64

_ROLES = {
    types_pb2.ROLE_SYSTEM: Role.SYSTEM,
    types_pb2.ROLE_USER: Role.USER,
    types_pb2.ROLE_ASSISTANT: Role.ASSISTANT,
    types_pb2.ROLE_DOCUMENT: Role.DOCUMENT,
    types_pb2.ROLE_RAW: Role.RAW,
}
_FINISH = {
    "stop": types_pb2.FINISH_REASON_STOP,
    "length": types_pb2.FINISH_REASON_LENGTH,
    "cancelled": types_pb2.FINISH_REASON_CANCELLED,
}


def pieces(messages: Sequence[types_pb2.Piece]) -> list[Piece]:
    if not messages:
        raise BadArgument("pieces: send at least one", field="pieces")
    if len(messages) > MAX_PIECES:
        raise BadArgument(f"pieces: at most {MAX_PIECES} in one message", field="pieces")
    converted = []
    for index, message in enumerate(messages):
        role = _ROLES.get(message.role)
        if role is None:
            raise BadArgument(
                f"pieces[{index}].role: give one of {', '.join(role.value for role in Role)}",
                field=f"pieces[{index}].role",
            )
        converted.append(Piece(role, message.content, message.open))
    return converted


def writer(writer_id: str, seq: int, *, required: bool) -> tuple[str, int]:
    """Writer and sequence number of an append; ("", 0) without protection."""
    if not writer_id:
        if required:
            raise BadArgument("writer_id: required on a stream", field="writer_id")
        if seq:
            raise BadArgument("seq: means nothing without a writer_id", field="seq")
        return "", 0
    identifier(writer_id, "writer_id", MAX_WRITER_BYTES)
    if not 1 <= seq < 2**62:
        raise BadArgument("seq: number the writer's messages 1, 2, 3, ...", field="seq")
    return writer_id, seq


def identifier(value: str, field: str, limit: int) -> str:
    if not 1 <= len(value.encode()) <= limit or not value.isprintable():
        raise BadArgument(f"{field}: 1 to {limit} bytes of printable text", field=field)
    return value


def position(offset: types_pb2.Offset) -> Position:
    if offset.tokens < 0:
        raise BadArgument("offset.tokens: not below 0", field="offset.tokens")
    if len(offset.generation) > MAX_GENERATION_CHARACTERS:
        raise BadArgument("offset.generation: not one of ours", field="offset.generation")
    return Position(offset.generation, offset.tokens)


def reply_options(message: types_pb2.Sampling, limits: Limits) -> ReplyOptions:
    """Sampling within its bounds, defaults filled in, a seed drawn where none is given."""
    temperature = _within("temperature", message.temperature, 0.0, 10.0)
    top_p = _within("top_p", message.top_p, 0.0, 1.0)
    penalty = message.repetition_penalty
    if penalty:
        _within("repetition_penalty", penalty, 1.0, 10.0)
    if message.top_k < 0:
        raise BadArgument("sampling.top_k: not below 0", field="sampling.top_k")
    if not 0 <= message.max_tokens <= limits.max_reply_tokens:
        raise BadArgument(
            f"sampling.max_tokens: 0 to {limits.max_reply_tokens}", field="sampling.max_tokens"
        )
    stops = tuple(message.stop)
    if len(stops) > MAX_STOPS or not all(1 <= len(stop) <= MAX_STOP_CHARACTERS for stop in stops):
        raise BadArgument(
            f"sampling.stop: at most {MAX_STOPS} texts of 1 to {MAX_STOP_CHARACTERS} characters",
            field="sampling.stop",
        )
    sampling = Sampling(
        temperature=temperature,
        top_k=message.top_k,
        top_p=top_p or 1.0,
        repetition_penalty=penalty or 1.0,
        seed=message.seed if message.HasField("seed") else secrets.randbits(63),
        max_tokens=message.max_tokens or limits.default_reply_tokens,
    )
    return ReplyOptions(sampling, stops)


def _within(field: str, value: float, low: float, high: float) -> float:
    if not (math.isfinite(value) and low <= value <= high):
        raise BadArgument(f"sampling.{field}: {low:g} to {high:g}", field=f"sampling.{field}")
    return value


def labels(given: Mapping[str, str]) -> dict[str, str]:
    fits = len(given) <= MAX_LABELS and all(
        1 <= len(name.encode()) <= MAX_LABEL_NAME and len(value.encode()) <= MAX_LABEL_VALUE
        for name, value in given.items()
    )
    if not fits:
        raise BadArgument(
            f"labels: at most {MAX_LABELS}, names of 1 to {MAX_LABEL_NAME} bytes, "
            f"values of up to {MAX_LABEL_VALUE}",
            field="labels",
        )
    return dict(given)


def ttl_ms(duration: duration_pb2.Duration) -> int:
    milliseconds = duration.ToMilliseconds()
    if not 1000 <= milliseconds <= 100 * 365 * 86_400_000:
        raise BadArgument("ttl: one second to a hundred years", field="ttl")
    return milliseconds


def grace_ms(duration: duration_pb2.Duration) -> int:
    milliseconds = duration.ToMilliseconds()
    if not 0 <= milliseconds <= 366 * 86_400_000:
        raise BadArgument("grace: nothing to a year", field="grace")
    return milliseconds


def scopes(names: Sequence[str]) -> tuple[Scope, ...]:
    known = {scope.value: scope for scope in Scope}
    if not names or any(name not in known for name in names):
        raise BadArgument(f"scopes: one or more of {', '.join(known)}", field="scopes")
    return tuple(scope for name, scope in known.items() if name in names)


def quota(value: Quota) -> admin_pb2.Quota:
    return admin_pb2.Quota(**asdict(value))


def quota_changes(request: admin_pb2.SetQuotaRequest) -> dict[str, int | None]:
    """New limits by name, None for those that go back to the default."""
    changes: dict[str, int | None] = dict.fromkeys(request.defaults)
    if unknown := changes.keys() - set(LIMITS):
        raise BadArgument(
            f"defaults: {', '.join(sorted(unknown))[:100]!r} is none of {', '.join(LIMITS)}",
            field="defaults",
        )
    for name in LIMITS:
        if not request.HasField(name):
            continue
        limit = getattr(request, name)
        if not 0 <= limit < MAX_LIMIT:
            raise BadArgument(f"{name}: 0, which is no limit, to 2**53", field=name)
        if name in changes:
            raise BadArgument(f"{name}: set it, or name it in defaults", field=name)
        changes[name] = limit
    if not changes:
        raise BadArgument(f"name a limit: {', '.join(LIMITS)}", field="tenant")
    return changes


def api_key(record: KeyRecord) -> admin_pb2.ApiKey:
    """A key without its digest."""
    return admin_pb2.ApiKey(
        id=record.id,
        tenant=record.tenant,
        scopes=record.scopes,
        create_time=_timestamp(record.created_ms),
        expire_time=_timestamp(record.expires_ms) if record.expires_ms else None,
    )


def session(
    record: SessionRecord, *, actor: SessionActor | None = None, owner: str = ""
) -> types_pb2.Session:
    """A session as its owner knows it, or as it stands in Redis."""
    blob = actor.checkpointer.committed if actor is not None else record.blob
    absorbed = blob.offset if blob is not None else 0
    text = actor.log.text if actor is not None else TextState.unpack(record.text)
    message = types_pb2.Session(
        name=record.key.name,
        generation=record.generation,
        model=record.model.partition("@")[0],
        acked_tokens=actor.log.next if actor is not None else record.next,
        absorbed_tokens=actor.absorbed if actor is not None else absorbed,
        tail_bytes=len(text.tail),
        state_bytes=blob.nbytes if blob is not None else 0,
        checkpoint_tokens=blob.offset if blob is not None else 0,
        labels=record.labels,
        archive=record.archive,
        archive_bytes=actor.log.frames.end if actor is not None else record.archived,
        create_time=_timestamp(record.created_ms),
        update_time=_timestamp(record.updated_ms),
        owner=owner,
    )
    if record.ttl_ms:
        message.ttl.FromMilliseconds(record.ttl_ms)
    return message


def snapshot(found: Snapshot) -> session_pb2.Snapshot:
    return session_pb2.Snapshot(
        name=found.name,
        offset=types_pb2.Offset(generation=found.generation, tokens=found.next),
        bytes=found.nbytes,
        create_time=_timestamp(found.created_ms),
    )


def _timestamp(milliseconds: int) -> timestamp_pb2.Timestamp:
    timestamp = timestamp_pb2.Timestamp()
    timestamp.FromMilliseconds(milliseconds)
    return timestamp


def reply_event(event: ReplyEvent) -> dict[str, Any]:
    """The event's field of QueryResponse and ChatResponse, by name."""
    match event:
        case Progress():
            progress = memory_pb2.Progress(
                absorbed_tokens=event.absorbed, target_tokens=event.target
            )
            return {"progress": progress}
        case Delta():
            return {"delta": memory_pb2.TextDelta(text=event.text, token_ids=event.token_ids)}
        case Completion():
            return {"completion": _completion(event)}


def _completion(event: Completion) -> memory_pb2.Completion:
    return memory_pb2.Completion(
        finish_reason=_FINISH[event.finish_reason],
        usage=types_pb2.Usage(
            prompt_tokens=event.prompt_tokens,
            completion_tokens=event.completion_tokens,
            memory_tokens=event.memory_tokens,
            wait_seconds=event.wait_seconds,
            prefill_seconds=event.prefill_seconds,
            decode_seconds=event.decode_seconds,
        ),
        offset=types_pb2.Offset(generation=event.generation, tokens=event.offset),
        stale=event.stale,
        seed=event.seed % 2**64,
        replayed=event.replayed,
    )
