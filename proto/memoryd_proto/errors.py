"""The one table of errors: reason -> status code -> what a caller may do.

Daemon and client both read it: the daemon's domain exceptions and the client's exceptions each
name a reason, and a test holds the three in step. A failed call carries
`google.rpc.ErrorInfo(domain=DOMAIN, reason=...)` with the facts as metadata and, where waiting
helps, `google.rpc.RetryInfo` (AIP-193).
"""

from dataclasses import dataclass
from enum import StrEnum

from grpc import StatusCode

DOMAIN = "memoryd.dev"


class Reason(StrEnum):
    """Why a call failed. Stable: clients may match on it."""

    BAD_ARGUMENT = "BAD_ARGUMENT"
    INVALID_UTF8 = "INVALID_UTF8"
    EMPTY_STREAM = "EMPTY_STREAM"
    PROMPT_TOO_LONG = "PROMPT_TOO_LONG"
    MESSAGE_TOO_LARGE = "MESSAGE_TOO_LARGE"
    BAD_CREDENTIALS = "BAD_CREDENTIALS"
    SCOPE_MISSING = "SCOPE_MISSING"
    KEY_NOT_FOUND = "KEY_NOT_FOUND"
    SESSION_NOT_FOUND = "SESSION_NOT_FOUND"
    MODEL_NOT_FOUND = "MODEL_NOT_FOUND"
    SESSION_EXISTS = "SESSION_EXISTS"
    SNAPSHOT_EXISTS = "SNAPSHOT_EXISTS"
    SNAPSHOT_NOT_FOUND = "SNAPSHOT_NOT_FOUND"
    TOO_MANY_SNAPSHOTS = "TOO_MANY_SNAPSHOTS"
    IMPORT_REFUSED = "IMPORT_REFUSED"
    SIGNATURE_REFUSED = "SIGNATURE_REFUSED"
    SEQUENCE_GAP = "SEQUENCE_GAP"
    TURN_OPEN = "TURN_OPEN"
    REQUEST_REUSED = "REQUEST_REUSED"
    GENERATION_CHANGED = "GENERATION_CHANGED"
    MODEL_MISMATCH = "MODEL_MISMATCH"
    NOT_ARCHIVED = "NOT_ARCHIVED"
    SESSION_MIGRATING = "SESSION_MIGRATING"
    OFFSET_CONFLICT = "OFFSET_CONFLICT"
    OFFSET_BEYOND_END = "OFFSET_BEYOND_END"
    BACKLOG_FULL = "BACKLOG_FULL"
    STORAGE_FULL = "STORAGE_FULL"
    QUOTA_EXCEEDED = "QUOTA_EXCEEDED"
    SLOTS_BUSY = "SLOTS_BUSY"
    LANES_BUSY = "LANES_BUSY"
    OWNERSHIP_LOST = "OWNERSHIP_LOST"
    OWNER_UNREACHABLE = "OWNER_UNREACHABLE"
    STORAGE_UNAVAILABLE = "STORAGE_UNAVAILABLE"
    DRAINING = "DRAINING"
    STATE_CORRUPT = "STATE_CORRUPT"
    ACKNOWLEDGED_LOST = "ACKNOWLEDGED_LOST"
    CANCELLED = "CANCELLED"
    DEADLINE = "DEADLINE"
    INTERNAL = "INTERNAL"


@dataclass(frozen=True)
class ErrorSpec:
    """One row of the table.

    code: the gRPC status a caller sees.
    retry: the same call may succeed later without a change; the client retries it by itself
        only where the call is idempotent.
    advice: what to do next, one sentence.
    """

    code: StatusCode
    retry: bool
    advice: str


ERRORS: dict[Reason, ErrorSpec] = {
    Reason.BAD_ARGUMENT: ErrorSpec(
        StatusCode.INVALID_ARGUMENT, False, "Correct the field that the message names."
    ),
    Reason.INVALID_UTF8: ErrorSpec(
        StatusCode.INVALID_ARGUMENT,
        False,
        "Send UTF-8; nothing of the refused message was kept.",
    ),
    Reason.EMPTY_STREAM: ErrorSpec(
        StatusCode.INVALID_ARGUMENT, False, "Send at least one message that names the session."
    ),
    Reason.PROMPT_TOO_LONG: ErrorSpec(
        StatusCode.INVALID_ARGUMENT,
        False,
        "Append long text to the session first and ask a shorter question.",
    ),
    Reason.MESSAGE_TOO_LARGE: ErrorSpec(
        StatusCode.RESOURCE_EXHAUSTED,
        False,
        "Cut the content into smaller pieces; AppendStream takes any number of them.",
    ),
    Reason.BAD_CREDENTIALS: ErrorSpec(
        StatusCode.UNAUTHENTICATED, False, "Send a valid key as `authorization: Bearer <key>`."
    ),
    Reason.SCOPE_MISSING: ErrorSpec(
        StatusCode.PERMISSION_DENIED, False, "Use a key that has the scope which the call needs."
    ),
    Reason.KEY_NOT_FOUND: ErrorSpec(
        StatusCode.NOT_FOUND, False, "List the keys: this id is not among them."
    ),
    Reason.SESSION_NOT_FOUND: ErrorSpec(
        StatusCode.NOT_FOUND, False, "Create the session, or check its name and your key."
    ),
    Reason.MODEL_NOT_FOUND: ErrorSpec(
        StatusCode.NOT_FOUND, False, "Ask GetModel which model this daemon serves."
    ),
    Reason.SESSION_EXISTS: ErrorSpec(
        StatusCode.ALREADY_EXISTS, False, "Use the session as it is, or delete it first."
    ),
    Reason.SNAPSHOT_EXISTS: ErrorSpec(
        StatusCode.ALREADY_EXISTS, False, "Choose another name, or delete that snapshot first."
    ),
    Reason.SNAPSHOT_NOT_FOUND: ErrorSpec(
        StatusCode.NOT_FOUND, False, "List the session's snapshots: this one is not among them."
    ),
    Reason.TOO_MANY_SNAPSHOTS: ErrorSpec(
        StatusCode.RESOURCE_EXHAUSTED, False, "Delete a snapshot of the session first."
    ),
    Reason.IMPORT_REFUSED: ErrorSpec(
        StatusCode.INVALID_ARGUMENT, False, "Export the session again: this file is damaged."
    ),
    Reason.SIGNATURE_REFUSED: ErrorSpec(
        StatusCode.PERMISSION_DENIED,
        False,
        "Import a file that this deployment exported, or have its operator allow others.",
    ),
    Reason.SEQUENCE_GAP: ErrorSpec(
        StatusCode.FAILED_PRECONDITION,
        False,
        "Send the missing messages of this writer first, or start with a new writer id.",
    ),
    Reason.TURN_OPEN: ErrorSpec(
        StatusCode.FAILED_PRECONDITION,
        True,
        "Wait until the other writer ends its turn, or until the turn times out.",
    ),
    Reason.REQUEST_REUSED: ErrorSpec(
        StatusCode.FAILED_PRECONDITION,
        False,
        "Draw a new request id: this one belongs to another message.",
    ),
    Reason.GENERATION_CHANGED: ErrorSpec(
        StatusCode.FAILED_PRECONDITION,
        False,
        "The session was deleted and made anew: get its generation and start over.",
    ),
    Reason.MODEL_MISMATCH: ErrorSpec(
        StatusCode.FAILED_PRECONDITION,
        False,
        "Serve the session with the model that made it, or migrate it if it is archived.",
    ),
    Reason.NOT_ARCHIVED: ErrorSpec(
        StatusCode.FAILED_PRECONDITION,
        False,
        "Only sessions created with archive=true can be read again; create one and send the text.",
    ),
    Reason.SESSION_MIGRATING: ErrorSpec(
        StatusCode.UNAVAILABLE,
        True,
        "Wait for the delay given: the session is being read again for another model.",
    ),
    Reason.OFFSET_CONFLICT: ErrorSpec(
        StatusCode.ABORTED, False, "Somebody else appended: read the offset again and decide."
    ),
    Reason.OFFSET_BEYOND_END: ErrorSpec(
        StatusCode.OUT_OF_RANGE, False, "Ask for an offset that was acknowledged."
    ),
    Reason.BACKLOG_FULL: ErrorSpec(
        StatusCode.RESOURCE_EXHAUSTED, True, "Wait for the delay given: the model is catching up."
    ),
    Reason.STORAGE_FULL: ErrorSpec(
        StatusCode.RESOURCE_EXHAUSTED, True, "Free memory in Redis or raise its maxmemory."
    ),
    Reason.QUOTA_EXCEEDED: ErrorSpec(
        StatusCode.RESOURCE_EXHAUSTED,
        True,
        "Wait for the delay given; where there is none, delete something or have the limit raised.",
    ),
    Reason.SLOTS_BUSY: ErrorSpec(
        StatusCode.RESOURCE_EXHAUSTED, True, "Every slot is in use: retry after the delay given."
    ),
    Reason.LANES_BUSY: ErrorSpec(
        StatusCode.RESOURCE_EXHAUSTED,
        True,
        "Too many replies wait to be written: retry after the delay given.",
    ),
    Reason.OWNERSHIP_LOST: ErrorSpec(
        StatusCode.UNAVAILABLE, True, "Another daemon took the session over: retry the call."
    ),
    Reason.OWNER_UNREACHABLE: ErrorSpec(
        StatusCode.UNAVAILABLE,
        True,
        "The daemon that owns the session does not answer: retry until another takes over.",
    ),
    Reason.STORAGE_UNAVAILABLE: ErrorSpec(
        StatusCode.UNAVAILABLE, True, "Redis does not answer: retry; nothing acknowledged is lost."
    ),
    Reason.DRAINING: ErrorSpec(
        StatusCode.UNAVAILABLE, True, "The daemon is shutting down: retry at another one."
    ),
    Reason.STATE_CORRUPT: ErrorSpec(
        StatusCode.DATA_LOSS,
        False,
        "The stored state was refused: restore a snapshot or create the session anew.",
    ),
    Reason.ACKNOWLEDGED_LOST: ErrorSpec(
        StatusCode.DATA_LOSS,
        False,
        "Redis lost acknowledged writes: send again everything after the offset given.",
    ),
    Reason.CANCELLED: ErrorSpec(StatusCode.CANCELLED, False, "The call was cancelled."),
    Reason.DEADLINE: ErrorSpec(
        StatusCode.DEADLINE_EXCEEDED, True, "Give the call more time, or ask with less to absorb."
    ),
    Reason.INTERNAL: ErrorSpec(
        StatusCode.INTERNAL, False, "A fault of the daemon: see its log under the request id."
    ),
}
