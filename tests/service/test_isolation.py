"""Whatever one tenant sends, another's sessions are to it as if they did not exist."""

import hashlib
import json
import random
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz.rpcs import call, mend, methods, noisy_message
from harness.calls import Calls, Held
from harness.daemons import DaemonProcess
from memoryd_proto.v1 import session_pb2

SECRET = b"the key lies under stone 7316"
HERS, NOBODYS = "ada-diary", "ada-night"  # of one length, so that one may stand for the other
TALK, WRITER, OTHER, PINNED = "talk-of-ada", "writer-of-ada", "ada-letters", "pinned-by-ada"
SESSION_FIELDS = ("session", "name", "source", "prefix", "page_token")
HER_TENANT, NOBODYS_TENANT = "ada", "eve"
CALLABLE = {method.name: method for method in methods()}


@dataclass(frozen=True)
class Tenants:
    """ada: owns HERS and OTHER. bob: owns nothing. held: what HERS is before bob calls."""

    ada: Calls
    bob: Calls
    held: Held


@pytest.fixture(scope="module")
def tenants(tiny_model: Path) -> Iterator[Tenants]:
    folder = Path(tempfile.mkdtemp(prefix="mds"))
    keys = [
        {"tenant": tenant, "sha256": hashlib.sha256(tenant.encode()).hexdigest(), "scopes": scopes}
        for tenant, scopes in (("ada", ["read", "write"]), ("bob", ["read", "write"]))
    ]
    daemon = DaemonProcess(
        folder,
        model=tiny_model,
        api_keys=json.dumps(keys),
        max_reply_tokens=8,
        default_reply_tokens=2,
        turn_timeout=0.5,
    )
    with Calls(daemon.address, key="ada") as ada, Calls(daemon.address, key="bob") as bob:
        ada.create(HERS)
        ada.create(OTHER)
        ada.append(HERS, SECRET, writer_id=WRITER, seq=1)
        ada.chat(HERS, b"Where is it?", TALK)
        pin = session_pb2.SnapshotSessionRequest(name=HERS, snapshot=PINNED)
        ada.call(ada.sessions.SnapshotSession, pin)
        held = ada.held(HERS)
        yield Tenants(ada, bob, held)
        assert ada.held(HERS) == held
        listed = ada.call(ada.sessions.ListSessions, session_pb2.ListSessionsRequest())
        assert [session.name for session in listed.sessions] == [HERS, OTHER]
        kept = ada.call(ada.sessions.ListSnapshots, session_pb2.ListSnapshotsRequest(name=HERS))
        assert [snapshot.name for snapshot in kept.snapshots] == [PINNED]
    daemon.end()
    shutil.rmtree(folder, ignore_errors=True)


def requests(method: Any, seed: int, generation: str) -> list[bytes]:
    """One to three messages about ada's session, as a function of the seed."""
    draw = random.Random(seed)
    drawn = []
    for _ in range(draw.randrange(1, 4) if method.client_streaming else 1):
        message = noisy_message(draw, method.input_type)
        mend(draw, message)
        for field in message.DESCRIPTOR.fields:
            if field.name in SESSION_FIELDS and draw.random() < 0.95:
                setattr(message, field.name, HERS)
            elif field.name == "tenant":
                message.tenant = HER_TENANT
            elif field.name == "generation" and draw.random() < 0.5:
                message.generation = generation
            elif field.name == "request_id":
                message.request_id = TALK
            elif field.name == "writer_id":
                message.writer_id = WRITER
            elif field.name == "snapshot":
                message.snapshot = PINNED
            elif field.name in ("expected_offset", "min_offset") and draw.random() < 0.5:
                getattr(message, field.name).generation = generation
        drawn.append(message.SerializeToString())
    return drawn


def outcome(calls: Calls, method: Any, sent: list[bytes]) -> tuple[str, bytes]:
    """How the call ended, as text without the session's name; and every byte that came back."""
    try:
        answers = list(call(calls.channel, method, sent, tuple(calls.metadata.items())))
    except grpc.RpcError as error:
        refused: Any = error
        said = [f"{refused.code()} {refused.details()}"]
        everything = refused.details().encode()
        for key, value in refused.trailing_metadata() or ():
            if key != "grpc-status-details-bin":
                continue
            everything += value
            for detail in status_pb2.Status.FromString(value).details:
                info = error_details_pb2.ErrorInfo()
                if detail.Unpack(info):
                    said.append(f"{info.reason} {sorted(info.metadata.items())}")
        return " ".join(said).replace(NOBODYS, HERS), everything
    return "answered", b"".join(answers)


def forget_everything(calls: Calls) -> None:
    """What bob made is gone again, and he saw nothing but that."""
    listed = calls.call(calls.sessions.ListSessions, session_pb2.ListSessionsRequest())
    for session in listed.sessions:
        assert session.name != OTHER
        calls.delete(session.name)


@pytest.mark.parametrize("name", CALLABLE)
@settings(max_examples=12)
@given(seed=st.integers(0, 2**32))
def test_another_tenants_session_answers_like_one_that_does_not_exist(
    tenants: Tenants, name: str, seed: int
) -> None:
    method, generation = CALLABLE[name], tenants.held.generation
    about_hers = requests(method, seed, generation)
    about_nobodys = [
        each.replace(HERS.encode(), NOBODYS.encode()).replace(
            b"\x03" + HER_TENANT.encode(), b"\x03" + NOBODYS_TENANT.encode()
        )
        for each in about_hers
    ]
    ends = []
    for sent in (about_hers, about_nobodys):
        end, everything = outcome(tenants.bob, method, sent)
        forget_everything(tenants.bob)
        ends.append(end)
        for secret in (SECRET, OTHER.encode(), tenants.held.checksum.encode(), generation.encode()):
            assert secret not in everything or any(secret in each for each in sent)
    assert ends[0] == ends[1]
