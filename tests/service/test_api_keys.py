"""API keys on a running daemon: made, used, listed, rotated, revoked, and told by nobody."""

import hashlib
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from typer.testing import CliRunner

from harness.calls import Calls, refusal, refused_for
from harness.processes import ChildProcess, wait_until
from memoryd.cli import app
from memoryd.rpc import permissions
from memoryd.scopes import Scope
from memoryd_client import BadCredentials, Client, KeyNotFound, Sampling
from memoryd_client import Scope as ClientScope
from memoryd_proto.errors import Reason
from memoryd_proto.v1 import admin_pb2, memory_pb2, session_pb2, types_pb2

OPERATOR = "the operator's own key"


@dataclass(frozen=True)
class Guarded:
    """A daemon with one configured key, the operator's."""

    address: str
    log: Path
    folder: Path

    def client(self, key: str = OPERATOR) -> Client:
        return Client(self.address, api_key=key)


@pytest.fixture(scope="module")
def guarded(tiny_model: Path) -> Iterator[Guarded]:
    folder = Path(tempfile.mkdtemp(prefix="mds"))
    config = folder / "memoryd.yaml"
    config.write_text(
        f"model: {tiny_model}\nlisten: 127.0.0.1:0\ndata_dir: {folder}\nthreads: 1\n"
        "log_format: json\nlog_level: debug\n"
        f"api_keys:\n- tenant: ops\n  sha256: {hashlib.sha256(OPERATOR.encode()).hexdigest()}\n"
    )
    command = [sys.executable, "-m", "memoryd", "serve", "--config", str(config)]
    daemon = ChildProcess(command, {}, folder / "daemon.log")
    yield Guarded(str(daemon.wait_for("ready")["address"]), folder / "daemon.log", folder)
    daemon.terminate()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def operator(guarded: Guarded) -> Iterator[Client]:
    with guarded.client() as client:
        yield client


def test_a_new_key_works_at_once_for_its_tenant_alone(guarded, operator, name):
    ada, bob = (
        operator.create_api_key(tenant, [ClientScope.READ, ClientScope.WRITE]).secret
        for tenant in ("ada", "bob")
    )
    with guarded.client(ada) as by_ada, guarded.client(bob) as by_bob:
        by_ada.create_session(name)
        by_ada.append(name, "the key lies under the third stone")
        assert by_ada.query(name, "Where?", sampling=Sampling(max_tokens=4)).text() is not None
        assert [session.name for session in by_ada.list_sessions(prefix=name)] == [name]
        assert list(by_bob.list_sessions(prefix=name)) == []
    assert list(operator.list_sessions(prefix=name)) == []


REQUESTS = {
    "CreateApiKey": admin_pb2.CreateApiKeyRequest(tenant="x", scopes=["read"]),
    "RevokeApiKey": admin_pb2.RevokeApiKeyRequest(id="x"),
}


def test_each_call_needs_its_scope(guarded, operator):
    """Every rpc with a key that has all scopes but one of those it needs."""
    files = (session_pb2, memory_pb2, admin_pb2)
    keys = {
        lacking: operator.create_api_key(
            "ada", [ClientScope(scope) for scope in Scope if scope is not lacking]
        ).secret
        for lacking in Scope
    }
    tried = 0
    with grpc.insecure_channel(guarded.address) as channel:
        for file in files:
            for service in file.DESCRIPTOR.services_by_name.values():
                for method in service.methods:
                    path = f"/{service.full_name}/{method.name}"
                    request = getattr(file, method.input_type.name)().SerializeToString()
                    kind = ("stream" if method.client_streaming else "unary") + (
                        "_stream" if method.server_streaming else "_unary"
                    )
                    for scope in permissions.NEEDED[path]:
                        sent = iter([request]) if method.client_streaming else request

                        def call(path=path, kind=kind, sent=sent, key=keys[scope]):
                            made = getattr(channel, kind)(path)(
                                sent, timeout=60, metadata=(("authorization", f"Bearer {key}"),)
                            )
                            return made if isinstance(made, bytes) else list(made)

                        found = refused_for(Reason.SCOPE_MISSING, call, says=scope.value)
                        assert found.facts == {"missing": scope.value, "rpc": method.name}
                        tried += 1
    assert tried > len(permissions.NEEDED)


def test_keys_are_listed_without_their_secrets(operator):
    made = operator.create_api_key("listed", [ClientScope.WRITE, ClientScope.READ])
    [key] = operator.list_api_keys("listed")
    assert key == made.key
    assert (key.tenant, key.scopes, key.expire_time) == ("listed", ("read", "write"), None)
    assert key in operator.list_api_keys()
    assert made.secret.startswith(f"md_{key.id}_")
    assert made.secret not in repr(made)


def test_a_revoked_key_is_refused_and_unknown(guarded, operator):
    made = operator.create_api_key("ada", [ClientScope.READ])
    with guarded.client(made.secret) as client:
        list(client.list_sessions())
        operator.revoke_api_key(made.key.id)
        with pytest.raises(BadCredentials):
            list(client.list_sessions())
    with pytest.raises(KeyNotFound):
        operator.revoke_api_key(made.key.id)


def test_an_unknown_key_id(guarded):
    with Calls(guarded.address, key=OPERATOR) as calls:
        for method, request in (
            (calls.admin.RevokeApiKey, admin_pb2.RevokeApiKeyRequest(id="nobody")),
            (calls.admin.RotateApiKey, admin_pb2.RotateApiKeyRequest(id="nobody")),
        ):
            found = refused_for(
                Reason.KEY_NOT_FOUND, lambda m=method, r=request: calls.call(m, r), "'nobody'"
            )
            assert found.facts == {"key_id": "nobody"}


@pytest.mark.parametrize(
    ("request_", "names"),
    [
        (admin_pb2.CreateApiKeyRequest(tenant="", scopes=["read"]), "tenant name"),
        (admin_pb2.CreateApiKeyRequest(tenant="a\n", scopes=["read"]), "tenant name"),
        (admin_pb2.CreateApiKeyRequest(tenant="a"), "scopes"),
        (admin_pb2.CreateApiKeyRequest(tenant="a", scopes=["read", "root"]), "scopes"),
    ],
)
def test_a_key_needs_a_tenant_and_known_scopes(guarded, request_, names):
    with Calls(guarded.address, key=OPERATOR) as calls:
        method = calls.admin.CreateApiKey
        refused_for(Reason.BAD_ARGUMENT, lambda: calls.call(method, request_), names)


def test_a_stream_ends_when_its_key_is_revoked(guarded, operator, name):
    made = operator.create_api_key("ada", [ClientScope.READ, ClientScope.WRITE])
    with Calls(guarded.address, key=made.secret) as calls:
        calls.create(name)
        piece = types_pb2.Piece(role=types_pb2.ROLE_DOCUMENT, content=b"a word ", open=True)
        first = memory_pb2.AppendStreamRequest(session=name, writer_id="w", seq=1, pieces=[piece])
        acked = []

        def messages() -> Iterator[memory_pb2.AppendStreamRequest]:
            yield first
            wait_until(lambda: acked, "the first message is acknowledged")
            operator.revoke_api_key(made.key.id)
            wait_until(lambda: not stream.is_active(), "the stream is ended")

        stream = calls.memory.AppendStream(
            messages(), metadata=(("authorization", f"Bearer {made.secret}"),)
        )
        found = refusal(lambda: [acked.append(ack) for ack in stream])
        assert found.reason == Reason.BAD_CREDENTIALS.value
        assert "revoked" in found.message


def test_the_command_line_makes_lists_rotates_and_revokes_keys(guarded):
    def run(*arguments: str) -> str:
        options = ["--target", guarded.address, "--api-key", OPERATOR]
        result = CliRunner().invoke(app, ["admin", "key", *arguments, *options])
        assert result.exit_code == 0, result.output
        return result.output

    made = json.loads(run("create", "cli tenant", "--scope", "read", "--json"))
    identity = made["key"]["id"]
    rotated = json.loads(run("rotate", identity, "--grace", "60", "--json"))
    assert rotated["key"]["scopes"] == ["read"]
    listed = json.loads(run("ls", "cli tenant", "--json"))
    assert [key["id"] for key in listed] == [identity, rotated["key"]["id"]]
    assert listed[0]["expire_time"] is not None
    assert identity in run("ls", "cli tenant")
    assert run("revoke", identity) == f"revoked: {identity}\n"
    with guarded.client(rotated["secret"]) as client:
        assert list(client.list_sessions()) == []
    shown = run("create", "cli tenant")
    assert "read, write" in shown
    wrong = CliRunner().invoke(app, ["admin", "key", "create", "a", "--scope", "root"])
    assert (wrong.exit_code, "a scope is read, write or admin" in wrong.output) == (1, True)


def test_no_secret_reaches_the_log_or_the_disk(guarded, operator, name):
    made = operator.create_api_key("ada", [ClientScope.WRITE])
    with guarded.client(made.secret) as client:
        client.create_session(name)
        with pytest.raises(Exception, match="scope"):
            client.get_session(name)
    operator.rotate_api_key(made.key.id)
    assert made.key.id in guarded.log.read_text()  # what was done to the key is logged
    secrets = [made.secret.rpartition("_")[2].encode(), OPERATOR.encode()]
    for file in guarded.folder.rglob("*"):
        if file.is_file():
            try:
                content = file.read_bytes()
            except FileNotFoundError:  # the server renames what it has written
                continue
            assert not any(secret in content for secret in secrets), file
