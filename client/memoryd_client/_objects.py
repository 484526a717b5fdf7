"""The flows of sessions as objects: update, fork, snapshot, restore, export, import.

Tried again are only an update, which sets what it names, the reads, a deletion, and an export of
which nothing has arrived. A second fork, snapshot or restore might meet what the first one made.
"""

from collections.abc import AsyncIterable, Iterable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import IO

from memoryd_client import _requests, _responses
from memoryd_client._calls import unary
from memoryd_client._errors import BadArgument, MemorydError, SnapshotNotFound, Unreachable
from memoryd_client._flow import CloseWrites, Emit, Flow, Open, Pull, Read, Rpc, Sleep, Write
from memoryd_client._retry import Attempts
from memoryd_client._types import Session, Snapshot
from memoryd_proto.v1 import session_pb2

FileSource = bytes | Path | IO[bytes] | Iterable[bytes]
AsyncFileSource = FileSource | AsyncIterable[bytes]

PIECE_BYTES = 256 << 10
"""Of an import; a daemon takes messages of 4 MiB unless it is told otherwise."""


def update_session(
    name: str, ttl: timedelta | None, labels: Mapping[str, str], attempts: Attempts
) -> Flow[Session]:
    """Change time to live and labels."""
    return unary(
        Rpc("session", "UpdateSession"),
        _requests.update_session(name, ttl, labels),
        lambda response: _responses.session(response.session),
        attempts,
    )


def fork_session(name: str, new_name: str, attempts: Attempts) -> Flow[Session]:
    """Make a second session of a first one."""
    return unary(
        Rpc("session", "ForkSession"),
        session_pb2.ForkSessionRequest(name=name, new_name=new_name),
        lambda response: _responses.session(response.session),
        attempts,
    )


def snapshot_session(name: str, snapshot: str, attempts: Attempts) -> Flow[Snapshot]:
    """Pin the memory of now."""
    return unary(
        Rpc("session", "SnapshotSession"),
        session_pb2.SnapshotSessionRequest(name=name, snapshot=snapshot),
        lambda response: _responses.snapshot(response.snapshot),
        attempts,
    )


def list_snapshots(name: str, attempts: Attempts) -> Flow[list[Snapshot]]:
    """All snapshots of a session."""
    return unary(
        Rpc("session", "ListSnapshots"),
        session_pb2.ListSnapshotsRequest(name=name),
        lambda response: [_responses.snapshot(message) for message in response.snapshots],
        attempts,
    )


def delete_snapshot(name: str, snapshot: str, attempts: Attempts) -> Flow[None]:
    """Delete; a retry that finds nothing has done its work earlier."""
    request = session_pb2.DeleteSnapshotRequest(name=name, snapshot=snapshot)
    try:
        yield from unary(Rpc("session", "DeleteSnapshot"), request, lambda _: None, attempts)
    except SnapshotNotFound:
        if not attempts.failed_before:
            raise
        yield Emit(None)


def restore_session(name: str, snapshot: str, attempts: Attempts) -> Flow[Session]:
    """Go back to a snapshot."""
    return unary(
        Rpc("session", "RestoreSession"),
        session_pb2.RestoreSessionRequest(name=name, snapshot=snapshot),
        lambda response: _responses.session(response.session),
        attempts,
    )


def export_session(name: str, attempts: Attempts) -> Flow[bytes]:
    """The bytes of the file, piece by piece."""
    request = session_pb2.ExportSessionRequest(name=name)
    arrived = False
    while True:
        try:
            yield Open(Rpc("session", "ExportSession"), request, attempts.time_left())
            while (response := (yield Read())) is not None:
                arrived = True
                yield Emit(response.data)
        except MemorydError as error:
            if arrived:
                raise
            yield Sleep(attempts.pause_after(error))
        else:
            return


def import_session(name: str, attempts: Attempts) -> Flow[Session]:
    """Send the source's pieces, and read the one answer."""
    if not name:
        raise BadArgument("An import needs a name for the new session: give one.")
    yield Open(Rpc("session", "ImportSession"), None, attempts.time_left())
    yield Write(session_pb2.ImportSessionRequest(name=name))
    while (piece := (yield Pull())) is not None:
        if not isinstance(piece, bytes):
            raise BadArgument(f"A file is made of bytes, not of {type(piece).__name__}.")
        for at in range(0, len(piece), PIECE_BYTES):
            data = piece[at : at + PIECE_BYTES]
            yield Write(session_pb2.ImportSessionRequest(name=name, data=data))
        yield Read(wait=False)  # raises where the daemon has refused what it saw so far
    yield CloseWrites()
    response = yield Read()
    if response is None:
        raise Unreachable("The call ended without an answer. Look whether the session is there.")
    yield Emit(_responses.session(response.session))
