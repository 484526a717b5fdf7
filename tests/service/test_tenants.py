"""Callers are told apart by their keys, and one tenant's sessions do not exist for another."""

import hashlib
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from harness.calls import Calls, refused_for
from harness.processes import ChildProcess
from memoryd_proto.errors import Reason
from memoryd_proto.v1 import memory_pb2, session_pb2

KEYS = {"ada": "key of ada", "bob": "key of bob"}


@pytest.fixture(scope="module")
def address(tiny_model: Path) -> Iterator[str]:
    """A daemon whose keys stand in a configuration file."""
    folder = Path(tempfile.mkdtemp(prefix="mds"))
    rows = [
        f"  - tenant: {tenant}\n    sha256: {hashlib.sha256(key.encode()).hexdigest()}\n"
        for tenant, key in KEYS.items()
    ]
    config = folder / "memoryd.yaml"
    config.write_text(
        f"model: {tiny_model}\nlisten: 127.0.0.1:0\ndata_dir: {folder}\nthreads: 1\n"
        f"log_format: json\napi_keys:\n{''.join(rows)}"
    )
    command = [sys.executable, "-m", "memoryd", "serve", "--config", str(config)]
    daemon = ChildProcess(command, {}, folder / "daemon.log")
    yield str(daemon.wait_for("ready")["address"])
    daemon.terminate()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def ada(address: str) -> Iterator[Calls]:
    with Calls(address, key=KEYS["ada"]) as calls:
        yield calls


@pytest.fixture
def bob(address: str) -> Iterator[Calls]:
    with Calls(address, key=KEYS["bob"]) as calls:
        yield calls


def test_a_missing_or_unknown_key(address):
    for metadata in (
        {},
        {"authorization": "Bearer nobody's"},
        {"authorization": KEYS["ada"]},
        {"authorization": f"Basic {KEYS['ada']}"},
        {"authorization": "Bearer "},
    ):
        with Calls(address, metadata=metadata) as calls:
            for call in (
                lambda: calls.create("x"),
                lambda: calls.query("x"),
                lambda: calls.append("x", b"x"),
                lambda: calls.stream([memory_pb2.AppendStreamRequest(session="x")]),
            ):
                refused_for(Reason.BAD_CREDENTIALS, call)


def test_a_session_of_another_tenant_answers_like_one_that_does_not_exist(ada, bob):
    ada.create("diary")
    ada.append("diary", b"the key lies under the third stone")
    held = ada.held("diary")

    for call in (
        lambda name: bob.get(name),
        lambda name: bob.delete(name),
        lambda name: bob.inspect(name),
        lambda name: bob.append(name, b"x"),
        lambda name: bob.query(name),
        lambda name: bob.chat(name, b"x", "r"),
        lambda name: bob.stream(
            [memory_pb2.AppendStreamRequest(session=name, writer_id="w", seq=1)]
        ),
    ):
        foreign = refused_for(Reason.SESSION_NOT_FOUND, lambda c=call: c("diary"))
        absent = refused_for(Reason.SESSION_NOT_FOUND, lambda c=call: c("nothing"))
        assert foreign.message == absent.message.replace("nothing", "diary")
        assert foreign.facts == {"session": "diary"}
        assert absent.facts == {"session": "nothing"}
    assert ada.held("diary") == held


def test_the_same_name_is_another_session_for_another_tenant(ada, bob):
    for calls, text in ((ada, b"ada was here"), (bob, b"bob was here, and for longer")):
        calls.create("shared name")
        calls.append("shared name", text)
    assert ada.held("shared name").checksum != bob.held("shared name").checksum
    held = ada.held("shared name")
    bob.delete("shared name")
    assert ada.held("shared name") == held
    listed = bob.call(bob.sessions.ListSessions, session_pb2.ListSessionsRequest())
    assert "shared name" not in [session.name for session in listed.sessions]


def test_health_and_reflection_answer_without_a_key(address):
    with grpc.insecure_channel(address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for name in ("", "memoryd.v1.MemoryService"):
            answer = health.Check(health_pb2.HealthCheckRequest(service=name), timeout=60)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.RpcError) as unknown:
            health.Check(health_pb2.HealthCheckRequest(service="nothing"), timeout=60)
        assert unknown.value.code() is grpc.StatusCode.NOT_FOUND
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        [answer] = stub.ServerReflectionInfo(iter([asked]), timeout=60)
        names = {service.name for service in answer.list_services_response.service}
        assert {
            "memoryd.v1.SessionService",
            "memoryd.v1.MemoryService",
            "memoryd.v1.AdminService",
            "grpc.health.v1.Health",
        } <= names
