"""Protobuf responses -> the values of `_types`. Pure."""

from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp

from memoryd_client._types import (
    ApiKey,
    AppendResult,
    Completion,
    Difference,
    DifferenceKind,
    FinishReason,
    Inspection,
    ModelInfo,
    NewApiKey,
    Offset,
    Quota,
    QuotaFigures,
    Rebuilding,
    RetainedHead,
    RetainedToken,
    Session,
    Snapshot,
    Stats,
    Usage,
    Verification,
)
from memoryd_proto.v1 import admin_pb2, memory_pb2, session_pb2, types_pb2

_FINISH = {
    types_pb2.FINISH_REASON_STOP: FinishReason.STOP,
    types_pb2.FINISH_REASON_LENGTH: FinishReason.LENGTH,
    types_pb2.FINISH_REASON_CANCELLED: FinishReason.CANCELLED,
}


_DIFFERENCES = {
    session_pb2.DIFFERENCE_KIND_UNREADABLE: DifferenceKind.UNREADABLE,
    session_pb2.DIFFERENCE_KIND_TOKENS: DifferenceKind.TOKENS,
    session_pb2.DIFFERENCE_KIND_TEXT: DifferenceKind.TEXT,
    session_pb2.DIFFERENCE_KIND_STATE: DifferenceKind.STATE,
}


def _time(message: Timestamp) -> datetime | None:
    empty = message.seconds == 0 and message.nanos == 0
    return None if empty else message.ToDatetime(tzinfo=UTC)


def offset(message: types_pb2.Offset) -> Offset:
    """A place in a stream."""
    return Offset(message.generation, message.tokens)


def session(message: types_pb2.Session) -> Session:
    """One session."""
    return Session(
        name=message.name,
        generation=message.generation,
        model=message.model,
        acked_tokens=message.acked_tokens,
        absorbed_tokens=message.absorbed_tokens,
        tail_bytes=message.tail_bytes,
        state_bytes=message.state_bytes,
        checkpoint_tokens=message.checkpoint_tokens,
        ttl=message.ttl.ToTimedelta() if message.HasField("ttl") else None,
        labels=dict(message.labels),
        archive=message.archive,
        archive_bytes=message.archive_bytes,
        create_time=_time(message.create_time),
        update_time=_time(message.update_time),
        owner=message.owner,
    )


def snapshot(message: session_pb2.Snapshot) -> Snapshot:
    """One snapshot."""
    return Snapshot(
        name=message.name,
        offset=offset(message.offset),
        nbytes=message.bytes,
        create_time=_time(message.create_time),
    )


def appended(message: memory_pb2.AppendResponse) -> AppendResult:
    """What a unary append says."""
    return AppendResult(offset(message.offset), message.tail_bytes, message.replayed)


def completion(message: memory_pb2.Completion) -> Completion:
    """The end of a reply. A finish reason of a newer daemon is UNKNOWN."""
    usage = message.usage
    return Completion(
        finish_reason=_FINISH.get(message.finish_reason, FinishReason.UNKNOWN),
        usage=Usage(
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            memory_tokens=usage.memory_tokens,
            wait_seconds=usage.wait_seconds,
            prefill_seconds=usage.prefill_seconds,
            decode_seconds=usage.decode_seconds,
        ),
        offset=offset(message.offset),
        stale=message.stale,
        seed=message.seed,
        replayed=message.replayed,
    )


def inspection(message: session_pb2.InspectSessionResponse) -> Inspection:
    """What the heads have kept."""
    return Inspection(
        offset=offset(message.offset),
        heads=tuple(_head(head) for head in message.heads),
        state_checksum=message.state_checksum,
    )


def _head(message: session_pb2.RetainedHead) -> RetainedHead:
    tokens = tuple(
        RetainedToken(token.position, token.token_id, token.text, token.score, token.sink)
        for token in message.tokens
    )
    return RetainedHead(message.layer, message.head, message.kept, message.budget, tokens)


def model_info(message: admin_pb2.GetModelResponse) -> ModelInfo:
    """The model that a daemon serves."""
    return ModelInfo(
        model=message.model,
        fingerprint=message.fingerprint,
        numerics=message.numerics,
        layers=tuple(message.layers),
        parameters=message.parameters,
        vocab_size=message.vocab_size,
        chunk=message.chunk,
        state_bytes=message.state_bytes,
        max_prompt_tokens=message.max_prompt_tokens,
        notes=tuple(message.notes),
        token_bytes=message.token_bytes,
    )


def stats(message: admin_pb2.GetStatsResponse) -> Stats:
    """Figures of a daemon."""
    return Stats(
        version=message.version,
        daemon_id=message.daemon_id,
        start_time=_time(message.start_time),
        sessions=message.sessions,
        slots_used=message.slots_used,
        slots_total=message.slots_total,
        lanes_used=message.lanes_used,
        lanes_total=message.lanes_total,
        tokens_appended=message.tokens_appended,
        tokens_absorbed=message.tokens_absorbed,
        tokens_generated=message.tokens_generated,
        backlog_tokens=message.backlog_tokens,
        checkpoints=message.checkpoints,
        resident_bytes=message.resident_bytes,
        redis_used_bytes=message.redis_used_bytes,
        storage=message.storage,
        durability=message.durability,
        draining=message.draining,
        tasks=message.tasks,
        missing=tuple(message.missing),
    )


def _figures(message: admin_pb2.Quota) -> QuotaFigures:
    return QuotaFigures(
        sessions=message.sessions,
        stored_bytes=message.stored_bytes,
        tokens_per_minute=message.tokens_per_minute,
        concurrent_queries=message.concurrent_queries,
    )


def quota(message: admin_pb2.GetQuotaResponse) -> Quota:
    """What a tenant may have and uses."""
    return Quota(_figures(message.limits), tuple(message.own), _figures(message.used))


def new_quota(message: admin_pb2.SetQuotaResponse) -> Quota:
    """What a tenant may have from now on."""
    return Quota(_figures(message.limits), tuple(message.own))


def api_key(message: admin_pb2.ApiKey) -> ApiKey:
    """A key without its secret."""
    return ApiKey(
        id=message.id,
        tenant=message.tenant,
        scopes=tuple(message.scopes),
        create_time=_time(message.create_time),
        expire_time=_time(message.expire_time),
    )


def new_api_key(
    message: admin_pb2.CreateApiKeyResponse | admin_pb2.RotateApiKeyResponse,
) -> NewApiKey:
    """A key with its secret."""
    return NewApiKey(api_key(message.key), message.secret)


def rebuilding(message: session_pb2.Rebuilding) -> Rebuilding:
    """How far a session is read again."""
    return Rebuilding(message.read_tokens, message.archive_bytes, message.target_archive_bytes)


def verification(message: session_pb2.Verification) -> Verification:
    """What was compared, and how it ended."""
    difference = None
    if message.difference:
        difference = Difference(
            kind=_DIFFERENCES.get(message.difference, DifferenceKind.UNKNOWN),
            tokens=message.difference_tokens,
            detail=message.detail,
        )
    return Verification(
        offset=offset(message.offset),
        from_tokens=message.from_tokens,
        from_archive=message.from_archive,
        state_checksum=message.state_checksum,
        rebuilt_checksum=message.rebuilt_checksum,
        difference=difference,
    )
