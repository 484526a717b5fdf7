"""One table: what a failed call says -> the exception it becomes (AIP-193).

The daemon attaches `google.rpc.ErrorInfo` with a reason of `memoryd_proto.errors`; each reason
has one class here. What carries no reason of ours came from the transport or from some other
server and becomes `Unreachable`, `DeadlineExceeded`, `Cancelled`, `MessageTooLarge` or
`ProtocolError`.
"""

from collections.abc import Iterable
from typing import ClassVar, Protocol

from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2
from grpc import StatusCode

from memoryd_proto.errors import DOMAIN, ERRORS, Reason

_STATUS_KEY = "grpc-status-details-bin"
_CANCELLED_HERE = "Locally cancelled by application!"  # grpc's words, in both of its clients


class MemorydError(Exception):
    """A call that failed; `str()` is one sentence on what happened.

    reason: why, stable enough to match on; empty where it did not come from a memoryd daemon.
    code: the gRPC status. facts: names and values that a program may want.
    retry_after: seconds after which the same call may succeed, None where the daemon gave none.
    retryable: the same call may succeed later without a change.
    advice: what to do next, one sentence; empty where the message says it.
    """

    reason: str = ""
    advice: str = ""
    code: StatusCode = StatusCode.UNKNOWN
    retryable: bool = False

    def __init__(
        self,
        message: str,
        *,
        facts: dict[str, str] | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.facts = facts or {}
        self.retry_after = retry_after


class _Reasoned(MemorydError):
    """An error with a row in the table; the rest follows from the reason."""

    row: ClassVar[Reason]

    def __init_subclass__(cls) -> None:
        spec = ERRORS[cls.row]
        cls.reason, cls.code, cls.retryable = cls.row.value, spec.code, spec.retry
        cls.advice = spec.advice


class BadArgument(_Reasoned):
    """A field of the request is wrong."""

    row = Reason.BAD_ARGUMENT


class InvalidUtf8(_Reasoned):
    """Content is not UTF-8; nothing of the message was kept."""

    row = Reason.INVALID_UTF8


class EmptyStream(_Reasoned):
    """A stream ended without a message."""

    row = Reason.EMPTY_STREAM


class PromptTooLong(_Reasoned):
    """Question and reply do not fit into the model's prompt."""

    row = Reason.PROMPT_TOO_LONG


class MessageTooLarge(_Reasoned):
    """A message is larger than the daemon takes."""

    row = Reason.MESSAGE_TOO_LARGE


class BadCredentials(_Reasoned):
    """The API key is missing or not valid."""

    row = Reason.BAD_CREDENTIALS


class ScopeMissing(_Reasoned):
    """The API key is valid, and not for this call."""

    row = Reason.SCOPE_MISSING


class KeyNotFound(_Reasoned):
    """There is no API key with this id."""

    row = Reason.KEY_NOT_FOUND


class SessionNotFound(_Reasoned):
    """No such session for this key."""

    row = Reason.SESSION_NOT_FOUND


class ModelNotFound(_Reasoned):
    """The daemon does not serve this model."""

    row = Reason.MODEL_NOT_FOUND


class SessionExists(_Reasoned):
    """The name is taken."""

    row = Reason.SESSION_EXISTS


class SnapshotExists(_Reasoned):
    """The session has a snapshot of this name."""

    row = Reason.SNAPSHOT_EXISTS


class SnapshotNotFound(_Reasoned):
    """The session has no snapshot of this name."""

    row = Reason.SNAPSHOT_NOT_FOUND


class TooManySnapshots(_Reasoned):
    """The session has as many snapshots as it may have."""

    row = Reason.TOO_MANY_SNAPSHOTS


class ImportRefused(_Reasoned):
    """The file is damaged, or no export of a session."""

    row = Reason.IMPORT_REFUSED


class SignatureRefused(_Reasoned):
    """The file was not signed by this deployment."""

    row = Reason.SIGNATURE_REFUSED


class SequenceGap(_Reasoned):
    """A message of this writer is missing before this one."""

    row = Reason.SEQUENCE_GAP


class TurnOpen(_Reasoned):
    """Another writer's turn is open."""

    row = Reason.TURN_OPEN


class RequestReused(_Reasoned):
    """The request id belongs to another message."""

    row = Reason.REQUEST_REUSED


class GenerationChanged(_Reasoned):
    """The session was deleted and made anew."""

    row = Reason.GENERATION_CHANGED


class ModelMismatch(_Reasoned):
    """The session was made by another model."""

    row = Reason.MODEL_MISMATCH


class NotArchived(_Reasoned):
    """The session keeps no archive from which it could be read again."""

    row = Reason.NOT_ARCHIVED


class SessionMigrating(_Reasoned):
    """The session is being read again for another model."""

    row = Reason.SESSION_MIGRATING


class OffsetConflict(_Reasoned):
    """The stream does not stand at the expected offset."""

    row = Reason.OFFSET_CONFLICT


class OffsetBeyondEnd(_Reasoned):
    """The stream has not got to this offset."""

    row = Reason.OFFSET_BEYOND_END


class BacklogFull(_Reasoned):
    """The model is too far behind the stream."""

    row = Reason.BACKLOG_FULL


class StorageFull(_Reasoned):
    """Redis has no room."""

    row = Reason.STORAGE_FULL


class QuotaExceeded(_Reasoned):
    """The tenant has used up one of its limits; facts: quota, limit, used.

    Tried again only where waiting helps: where the daemon says for how long.
    """

    row = Reason.QUOTA_EXCEEDED

    def __init__(
        self,
        message: str,
        *,
        facts: dict[str, str] | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, facts=facts, retry_after=retry_after)
        self.retryable = retry_after is not None


class SlotsBusy(_Reasoned):
    """Every slot of the daemon is in use."""

    row = Reason.SLOTS_BUSY


class LanesBusy(_Reasoned):
    """Too many replies wait to be written."""

    row = Reason.LANES_BUSY


class OwnershipLost(_Reasoned):
    """Another daemon took the session over."""

    row = Reason.OWNERSHIP_LOST


class OwnerUnreachable(_Reasoned):
    """The daemon that owns the session does not answer."""

    row = Reason.OWNER_UNREACHABLE


class StorageUnavailable(_Reasoned):
    """Redis does not answer."""

    row = Reason.STORAGE_UNAVAILABLE


class Draining(_Reasoned):
    """The daemon is shutting down."""

    row = Reason.DRAINING


class StateCorrupt(_Reasoned):
    """The stored state was refused."""

    row = Reason.STATE_CORRUPT


class AcknowledgedLost(_Reasoned):
    """Redis lost acknowledged writes."""

    row = Reason.ACKNOWLEDGED_LOST


class Cancelled(_Reasoned):
    """The call was cancelled."""

    row = Reason.CANCELLED


class DeadlineExceeded(_Reasoned):
    """The call took longer than its timeout."""

    row = Reason.DEADLINE


class InternalError(_Reasoned):
    """A fault of the daemon."""

    row = Reason.INTERNAL


class Unreachable(MemorydError):
    """No daemon answered, or the connection broke."""

    code = StatusCode.UNAVAILABLE
    retryable = True


class ProtocolError(MemorydError):
    """An answer that no memoryd daemon gives: the target is something else, or a proxy."""


BY_REASON: dict[str, type[_Reasoned]] = {cls.reason: cls for cls in _Reasoned.__subclasses__()}


class FailedCall(Protocol):
    """What both `grpc.RpcError` of a blocking call and `grpc.aio.AioRpcError` offer."""

    def code(self) -> StatusCode: ...
    def details(self) -> str | None: ...
    def trailing_metadata(self) -> Iterable[tuple[str, str | bytes]] | None: ...


def from_failed_call(call: FailedCall, target: str) -> MemorydError:
    """The exception for a failed call to `target`."""
    code, details = call.code(), call.details() or ""
    status = _status(call.trailing_metadata() or ())
    for packed in status.details if status else ():
        info = error_details_pb2.ErrorInfo()
        if packed.Unpack(info) and info.domain == DOMAIN:
            retry_after = _retry_after(status) if status else None
            facts = dict(info.metadata)
            if known := BY_REASON.get(info.reason):
                return known(details, facts=facts, retry_after=retry_after)
            unknown = MemorydError(details, facts=facts, retry_after=retry_after)
            unknown.reason, unknown.code = info.reason, code
            return unknown
    return _from_transport(code, details, target)


def _from_transport(code: StatusCode, details: str, target: str) -> MemorydError:
    if code is StatusCode.DEADLINE_EXCEEDED:
        return DeadlineExceeded(
            f"{target} did not answer in time. {ERRORS[Reason.DEADLINE].advice}"
        )
    if code is StatusCode.CANCELLED and details == _CANCELLED_HERE:
        return Cancelled(ERRORS[Reason.CANCELLED].advice)
    if code is StatusCode.RESOURCE_EXHAUSTED and "larger than max" in details:
        return MessageTooLarge(f"{details}. {ERRORS[Reason.MESSAGE_TOO_LARGE].advice}")
    # A server that ends shows as any of these, depending on where the call stood: gRPC's own
    # status-code table lists them under "connection" and "stream" failures. A call that reached
    # it and no handler is reset, which is CANCELLED though nobody here gave it up.
    broken = code is StatusCode.CANCELLED or (
        code in (StatusCode.INTERNAL, StatusCode.UNKNOWN)
        and ("RST_STREAM" in details or "Stream removed" in details)
    )
    if code is StatusCode.UNAVAILABLE or broken:
        return Unreachable(
            f"No daemon answers at {target} ({details}). "
            "Start one with `memoryd serve`, or check the address."
        )
    error = ProtocolError(
        f"{target} answered {code.name} ({details}), which is not a memoryd daemon's answer. "
        "Check the address and what stands in between."
    )
    error.code = code
    return error


def _status(metadata: Iterable[tuple[str, str | bytes]]) -> status_pb2.Status | None:
    for key, value in metadata:
        if key == _STATUS_KEY and isinstance(value, bytes):
            try:
                return status_pb2.Status.FromString(value)
            except DecodeError:
                return None
    return None


def _retry_after(status: status_pb2.Status) -> float | None:
    for packed in status.details:
        retry = error_details_pb2.RetryInfo()
        if packed.Unpack(retry):
            return float(retry.retry_delay.ToTimedelta().total_seconds())
    return None
