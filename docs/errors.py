"""Writes errors.md beside it: the table, the daemon's exceptions and the client's, and situations.

    python docs/errors.py

A test compares the result with the file, so that the page cannot fall behind the code.
"""

from dataclasses import dataclass
from pathlib import Path

import memoryd.errors
import memoryd_client
from memoryd_proto.errors import DOMAIN, ERRORS, Reason

PAGE = Path(__file__).with_suffix(".md")
SITUATIONS = Path(__file__).with_name("error_situations.txt")

EXAMPLES = {
    Reason.BAD_ARGUMENT: "seq: number the writer's messages 1, 2, 3, ...",
    Reason.INVALID_UTF8: "piece 0: byte 5 is not UTF-8; nothing of this message was kept",
    Reason.EMPTY_STREAM: "the stream ended before its first message",
    Reason.PROMPT_TOO_LONG: (
        "the question and what goes with it are 5210 tokens, more than the 4096 allowed: append "
        "long text to the session and ask a shorter question"
    ),
    Reason.MESSAGE_TOO_LARGE: (
        "the message is 5242880 bytes, at most 4194304 are taken: cut it into pieces"
    ),
    Reason.BAD_CREDENTIALS: "the key is not known here",
    Reason.SCOPE_MISSING: "the key lacks the scope write: use one that has it",
    Reason.KEY_NOT_FOUND: "There is no API key with the id '1f0c': list the keys.",
    Reason.SESSION_NOT_FOUND: "there is no session 'alice'",
    Reason.MODEL_NOT_FOUND: "this daemon serves smollm2-135m-lalte, not 'other'",
    Reason.SESSION_EXISTS: "Session default/alice exists: use it as it is, or delete it first.",
    Reason.SNAPSHOT_EXISTS: (
        "session 'alice' has a snapshot 'monday': delete it, or choose another name"
    ),
    Reason.SNAPSHOT_NOT_FOUND: "session 'alice' has no snapshot 'monday'",
    Reason.TOO_MANY_SNAPSHOTS: "session 'alice' has 64 snapshots: delete one first",
    Reason.IMPORT_REFUSED: "the file was refused: it ends after 4096 of 9437184 bytes",
    Reason.SIGNATURE_REFUSED: (
        "the file is not signed with this deployment's export key: import what was exported here, "
        "or set import_unsigned and use a key with the scope admin"
    ),
    Reason.SEQUENCE_GAP: "writer 'w' sent message 9, but 7 is next",
    Reason.TURN_OPEN: (
        "another writer's user turn is open; it is closed after 30 s without a piece"
    ),
    Reason.REQUEST_REUSED: "request id 'r1' was used for another message",
    Reason.GENERATION_CHANGED: "session 'alice' is of generation 9d5c02d88f55836c now",
    Reason.MODEL_MISMATCH: (
        "session 'alice' was made by model a@1f0c, this daemon serves smollm2-135m-lalte@a4ba: "
        "serve it with the model that made it, or migrate it: memoryd session migrate alice"
    ),
    Reason.NOT_ARCHIVED: (
        "session 'alice' keeps no archive: only what was created with archive=true can be read "
        "again"
    ),
    Reason.SESSION_MIGRATING: (
        "session 'alice' is being read again for another model; retry when that is done"
    ),
    Reason.OFFSET_CONFLICT: "the stream stands at token 120, not at 100",
    Reason.OFFSET_BEYOND_END: "token 500 is beyond the end of the stream at 120",
    Reason.QUOTA_EXCEEDED: (
        "500 of 500 sessions exist: delete one, or have the operator raise the limit"
    ),
    Reason.BACKLOG_FULL: "65600 tokens wait to be read, the limit is 65536",
    Reason.STORAGE_FULL: (
        "Redis at redis://10.0.0.5:6379 is at its maxmemory: free memory there or raise "
        "maxmemory, then retry."
    ),
    Reason.SLOTS_BUSY: "all 32 slots are in use; retry",
    Reason.LANES_BUSY: "264 replies are being written or wait, which is all that may; retry",
    Reason.OWNERSHIP_LOST: "the session has just moved to 10.0.0.7:7420; retry",
    Reason.OWNER_UNREACHABLE: (
        "the session's owner at 10.0.0.7:7420 does not answer; retry until another takes over"
    ),
    Reason.STORAGE_UNAVAILABLE: (
        "Redis at redis://10.0.0.5:6379 gave no answer within 15 s (connection refused): check "
        "that it runs and can be reached, then retry."
    ),
    Reason.DRAINING: "this daemon is shutting down; retry at another one",
    Reason.STATE_CORRUPT: "the checkpoint at token 4096 was refused: its digest does not fit",
    Reason.ACKNOWLEDGED_LOST: (
        "the journal ends at token 100, but 120 were acknowledged, and this daemon no longer "
        "holds what lies between"
    ),
    Reason.CANCELLED: "The call was cancelled.",
    Reason.DEADLINE: "127.0.0.1:7420 did not answer in time.",
    Reason.INTERNAL: "a fault of the daemon; its log names it under request id 1f0c",
}

HEAD = f"""# Errors

Made by `python docs/errors.py` from `memoryd_proto.errors`; do not edit by hand.

A failed call carries `google.rpc.ErrorInfo` with domain `{DOMAIN}`, one of these reasons and the
facts of the case as metadata, and `google.rpc.RetryInfo` where waiting helps. Reasons are stable:
match on them, not on sentences.

*Retry* says that the same call may succeed later without a change. The clients retry by
themselves, with back-off and within the caller's deadline, and only calls that are idempotent:
reads, `Query` before its first token, `Append` and `AppendStream` by their writer id, `Chat` by
its request id, `DeleteSession` by its generation, `CreateSession` where an existing session is
welcome.

## The table

| reason | status code | retry | client exception | daemon exception | what to do |
|---|---|---|---|---|---|
"""

TRANSPORT = """
## Without a reason

What did not come from a memoryd daemon has no `ErrorInfo`. The clients raise for it:

| client exception | when |
|---|---|
| `Unreachable` | nobody answers at the address, or the connection broke; retried like the above |
| `DeadlineExceeded` | the call's own timeout passed before an answer came |
| `Cancelled` | the caller went away |
| `MessageTooLarge` | gRPC's own limit was hit before the daemon saw the message |
| `ProtocolError` | any other status: the address is that of something else, or of a proxy |

A reason that a client does not know yet, because the daemon is newer, arrives as the base class
`MemorydError` with `reason`, `facts` and `code` filled in.
"""

SITUATIONS_HEAD = """
## What leads to which

A call that is refused loses nothing: the session holds what was acknowledged before, to the bit.
Each row is held by the test it names.

| situation | status code | reason | sentence | test |
|---|---|---|---|---|
"""


@dataclass(frozen=True)
class Situation:
    """A row of error_situations.txt; `test` is a path from the repository's root and a name."""

    situation: str
    outcome: str
    test: str
    sentence: str


def situations() -> list[Situation]:
    """All rows, in the file's order."""
    rows = []
    for line in SITUATIONS.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            what, outcome, test, *sentence = line.split(" | ")
            if not sentence:
                sentence = [EXAMPLES[Reason(outcome)]]
            path = test if test.startswith("tests/") else f"tests/service/{test}"
            rows.append(Situation(what, outcome, path, *sentence))
    return rows


def _row(row: Situation) -> str:
    known = row.outcome in ERRORS
    code = ERRORS[Reason(row.outcome)].code.name if known else row.outcome
    reason = f"`{row.outcome}`" if known else "-"
    return f"| {row.situation} | {code} | {reason} | {row.sentence} | `{row.test}` |\n"


def render() -> str:
    """The page."""
    in_client = {
        cls.reason: cls.__name__
        for name in memoryd_client.__all__
        if isinstance(cls := getattr(memoryd_client, name), type)
        and issubclass(cls, memoryd_client.MemorydError)
        and cls.reason
    }
    in_daemon = {
        cls.reason: f"`{cls.__name__}`"
        for cls in memoryd.errors.MemorydError.__subclasses__()
        if cls.__module__ == "memoryd.errors"
    }
    rows = [
        f"| `{reason}` | {spec.code.name} | {'yes' if spec.retry else 'no'} "
        f"| `{in_client[reason]}` | {in_daemon.get(reason, '-')} | {spec.advice} |\n"
        for reason, spec in ERRORS.items()
    ]
    examples = [f"- `{reason}`: {EXAMPLES[reason]}\n" for reason in ERRORS]
    return (
        HEAD
        + "".join(rows)
        + "\n## How each reads\n\n"
        + "".join(examples)
        + TRANSPORT
        + SITUATIONS_HEAD
        + "".join(map(_row, situations()))
    )


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
