"""Domain errors of the daemon, each with its reason in `memoryd_proto.errors`.

The text of an error says what to do next; the facts stand in `facts` as well and travel to the
client as `ErrorInfo` metadata. Anything raised towards a caller is one of these.
"""

from typing import ClassVar

from memoryd_proto.errors import Reason


class MemorydError(Exception):
    """Base of all domain errors.

    message: one sentence for a person.
    retry_after: seconds after which the same call may succeed, None where it is not known.
    facts: names and values that a program may want; never secrets, never client text.
    """

    reason: ClassVar[Reason] = Reason.INTERNAL

    def __init__(self, message: str, *, retry_after: float | None = None, **facts: object) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after = retry_after
        self.facts = {name: str(value) for name, value in facts.items()}


class BadArgument(MemorydError):
    reason = Reason.BAD_ARGUMENT


class InvalidUtf8Content(MemorydError):
    reason = Reason.INVALID_UTF8


class EmptyStream(MemorydError):
    reason = Reason.EMPTY_STREAM


class PromptTooLong(MemorydError):
    reason = Reason.PROMPT_TOO_LONG


class MessageTooLarge(MemorydError):
    reason = Reason.MESSAGE_TOO_LARGE


class BadCredentials(MemorydError):
    reason = Reason.BAD_CREDENTIALS


class ScopeMissing(MemorydError):
    reason = Reason.SCOPE_MISSING


class KeyNotFound(MemorydError):
    reason = Reason.KEY_NOT_FOUND


class SessionNotFound(MemorydError):
    reason = Reason.SESSION_NOT_FOUND


class ModelNotFound(MemorydError):
    reason = Reason.MODEL_NOT_FOUND


class SessionExists(MemorydError):
    reason = Reason.SESSION_EXISTS


class SnapshotExists(MemorydError):
    reason = Reason.SNAPSHOT_EXISTS


class SnapshotNotFound(MemorydError):
    reason = Reason.SNAPSHOT_NOT_FOUND


class TooManySnapshots(MemorydError):
    reason = Reason.TOO_MANY_SNAPSHOTS


class ImportRefused(MemorydError):
    reason = Reason.IMPORT_REFUSED


class SignatureRefused(MemorydError):
    reason = Reason.SIGNATURE_REFUSED


class SequenceGap(MemorydError):
    reason = Reason.SEQUENCE_GAP


class TurnOpen(MemorydError):
    reason = Reason.TURN_OPEN


class RequestReused(MemorydError):
    reason = Reason.REQUEST_REUSED


class GenerationChanged(MemorydError):
    reason = Reason.GENERATION_CHANGED


class ModelMismatch(MemorydError):
    reason = Reason.MODEL_MISMATCH


class NotArchived(MemorydError):
    reason = Reason.NOT_ARCHIVED


class SessionMigrating(MemorydError):
    reason = Reason.SESSION_MIGRATING


class OffsetConflict(MemorydError):
    reason = Reason.OFFSET_CONFLICT


class OffsetBeyondEnd(MemorydError):
    reason = Reason.OFFSET_BEYOND_END


class BacklogFull(MemorydError):
    reason = Reason.BACKLOG_FULL


class StorageFull(MemorydError):
    reason = Reason.STORAGE_FULL


class QuotaExceeded(MemorydError):
    reason = Reason.QUOTA_EXCEEDED


class SlotsBusy(MemorydError):
    reason = Reason.SLOTS_BUSY


class LanesBusy(MemorydError):
    reason = Reason.LANES_BUSY


class OwnershipLost(MemorydError):
    reason = Reason.OWNERSHIP_LOST


class OwnerUnreachable(MemorydError):
    reason = Reason.OWNER_UNREACHABLE


class StorageUnavailable(MemorydError):
    reason = Reason.STORAGE_UNAVAILABLE


class Draining(MemorydError):
    reason = Reason.DRAINING


class StateCorrupt(MemorydError):
    reason = Reason.STATE_CORRUPT


class AcknowledgedLost(MemorydError):
    reason = Reason.ACKNOWLEDGED_LOST


class DeadlinePassed(MemorydError):
    reason = Reason.DEADLINE
