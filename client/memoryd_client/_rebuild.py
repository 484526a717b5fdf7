"""The flows that have a session read again: verify and migrate.

A verification changes nothing and is tried again, a migration in place as well: one that is done
is answered as done. A second migration to a new name might meet what the first one made.
"""

from collections.abc import Callable
from typing import Any, TypeVar

from memoryd_client import _responses
from memoryd_client._errors import MemorydError, Unreachable
from memoryd_client._flow import Emit, Flow, Open, Read, Rpc, Sleep
from memoryd_client._retry import Attempts
from memoryd_client._types import Rebuilding, Session, Verification
from memoryd_proto.v1 import session_pb2

T = TypeVar("T")
OnRebuilding = Callable[[Rebuilding], None]


def verify_session(
    name: str, on_progress: OnRebuilding | None, attempts: Attempts
) -> Flow[Verification]:
    """Rebuild and compare."""
    request = session_pb2.VerifySessionRequest(name=name, report_progress=on_progress is not None)
    return _rebuild(
        Rpc("session", "VerifySession"),
        request,
        on_progress,
        lambda response: _responses.verification(response.verification),
        attempts,
    )


def migrate_session(
    name: str, to: str, on_progress: OnRebuilding | None, attempts: Attempts
) -> Flow[Session]:
    """Read again under the daemon's model."""
    request = session_pb2.MigrateSessionRequest(
        name=name, new_name=to, report_progress=on_progress is not None
    )
    return _rebuild(
        Rpc("session", "MigrateSession"),
        request,
        on_progress,
        lambda response: _responses.session(response.session),
        attempts,
    )


def _rebuild(
    rpc: Rpc,
    request: session_pb2.VerifySessionRequest | session_pb2.MigrateSessionRequest,
    on_progress: OnRebuilding | None,
    parse: Callable[[Any], T],
    attempts: Attempts,
) -> Flow[T]:
    """Progress to its callback, and the last message to the caller."""
    while True:
        try:
            yield Open(rpc, request, attempts.time_left())
            while (response := (yield Read())) is not None:
                if response.WhichOneof("event") != "progress":
                    yield Emit(parse(response))
                    return
                if on_progress is not None:
                    on_progress(_responses.rebuilding(response.progress))
            raise Unreachable("The call ended without an answer. Make it again.")
        except MemorydError as error:
            yield Sleep(attempts.pause_after(error))
