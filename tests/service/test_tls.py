"""TLS between clients and daemons, among daemons, and to Redis."""

import shutil
import socket
import ssl
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from harness.certificates import Authority, Files
from harness.daemons import DaemonProcess
from harness.redis_servers import RedisProcess, server_binaries
from harness.streams import AT_ONCE
from memoryd.cli import app
from memoryd_client import AsyncClient, Client, MemorydError, Sampling, Scope, Tls

BINARIES = server_binaries()
ONE = Sampling(max_tokens=1)


@dataclass(frozen=True)
class Secure:
    """Two daemons on one server that ask everybody for a certificate of `ours`."""

    a: DaemonProcess
    b: DaemonProcess
    ours: Authority
    theirs: Authority
    caller: Files

    def tls(self, caller: Files | None, roots: Authority | None = None) -> Tls:
        return Tls(
            root_certificates=(roots or self.ours).path.read_bytes(),
            private_key=caller.key.read_bytes() if caller else None,
            certificate_chain=caller.cert.read_bytes() if caller else None,
        )

    def client(self, daemon: DaemonProcess) -> Client:
        return Client(daemon.address, tls=self.tls(self.caller))


@pytest.fixture(scope="module")
def secure(tiny_model: Path) -> Iterator[Secure]:
    folder = Path(tempfile.mkdtemp(prefix="mds"))
    ours, theirs = Authority(folder, "ours"), Authority(folder, "theirs")
    files = ours.issue("daemon")
    redis = RedisProcess(folder / "redis", BINARIES["valkey"])

    def start(name: str) -> DaemonProcess:
        return DaemonProcess(
            folder / name,
            model=tiny_model,
            redis_url=redis.url,
            tls_cert=files.cert,
            tls_key=files.key,
            tls_client_ca=ours.path,
            tls_peer_ca=ours.path,
        )

    a, b = start("a"), start("b")
    yield Secure(a, b, ours, theirs, ours.issue("caller"))
    for process in (a, b, redis):
        process.kill()
    shutil.rmtree(folder, ignore_errors=True)


def test_a_caller_with_our_certificate_is_served(secure, name):
    with secure.client(secure.a) as client:
        client.create_session(name)
        client.append(name, "Encrypted.")
        assert client.query(name, "What?", sampling=ONE).text() is not None


async def test_the_asyncio_client_is_served_too(secure, name):
    async with AsyncClient(secure.a.address, tls=secure.tls(secure.caller)) as client:
        await client.create_session(name)
        result = await client.append_stream(name, "A stream. " * 10)
        assert result.offset.tokens > 0


def test_all_others_are_refused(secure):
    for tls in (
        None,  # plain text
        secure.tls(None),  # shows no certificate
        secure.tls(secure.theirs.issue("stranger")),  # shows one that we did not sign
        secure.tls(secure.caller, roots=secure.theirs),  # does not trust us
    ):
        with (
            Client(secure.a.address, tls=tls, retry=AT_ONCE, timeout=60) as client,
            pytest.raises(MemorydError),
        ):
            client.get_model()
    with secure.client(secure.a) as client:
        assert client.is_serving()


def test_daemons_pass_calls_on_over_tls(secure, name):
    with secure.client(secure.a) as on_a, secure.client(secure.b) as on_b:
        on_a.create_session(name)
        on_a.append(name, "It was told to a.")
        on_b.append(name, "And this to b, which passed it on.")
        assert on_b.query(name, "What?", sampling=ONE).text() is not None
        assert on_b.get_session(name).owner == secure.a.address
        assert on_b.get_stats().sessions == 0


def test_the_command_line_shows_and_trusts_certificates(secure):
    files = ["--tls-roots", str(secure.ours.path)]
    mine = ["--client-cert", str(secure.caller.cert), "--client-key", str(secure.caller.key)]
    command = ["session", "ls", "--target", secure.a.address]
    run = CliRunner().invoke
    assert run(app, [*files, *mine, *command]).exit_code == 0
    assert run(app, [*files, *command]).exit_code == 1
    half = run(app, [*files, *mine[:2], *command])
    assert (half.exit_code, "belong together" in half.output) == (1, True)
    # The files of one command are not those of the next.
    assert run(app, command).exit_code == 1


class TlsFront:
    """Speaks TLS on a port and passes the bytes on to a unix socket."""

    def __init__(self, files: Files, upstream: str) -> None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(files.cert, files.key)
        self._context = context
        self._upstream = upstream
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                raw, _ = self._listener.accept()
                threading.Thread(target=self._link, args=[raw], daemon=True).start()

    def _link(self, raw: socket.socket) -> None:
        with suppress(OSError), self._context.wrap_socket(raw, server_side=True) as near:
            far = socket.socket(socket.AF_UNIX)
            far.connect(self._upstream)
            with closing(far):
                # One direction a thread would use one TLS object twice at a time: they take turns.
                near.settimeout(0.001)
                far.settimeout(0.001)
                while _moved(near, far) and _moved(far, near):
                    pass


def _moved(source: socket.socket, target: socket.socket) -> bool:
    """Passes on what there is; False at the end."""
    try:
        data = source.recv(1 << 16)
    except TimeoutError:
        return True
    if data:
        target.settimeout(None)
        target.sendall(data)
        target.settimeout(0.001)
    return bool(data)


ACL = "on >s3cret-word resetkeys resetchannels ~md1:* -@all {commands}"


@pytest.fixture
def acl_commands() -> str:
    """The commands that docs/security.md gives the daemon's user."""
    text = (Path(__file__).parents[2] / "docs" / "security.md").read_text()
    [line] = [line for line in text.splitlines() if line.strip().startswith("ACL SETUSER")]
    before, _, commands = line.strip().partition(" -@all ")
    assert before == "ACL SETUSER memoryd on >PASSWORD resetkeys resetchannels ~md1:*"
    return commands


@pytest.mark.parametrize("kind", ["valkey", "redis"])
def test_redis_over_tls_as_the_user_of_the_documentation(
    kind: str,
    acl_commands: str,
    start_redis: Callable[..., RedisProcess],
    start_daemon: Callable[..., DaemonProcess],
    short_folder: Path,
    name: str,
) -> None:
    if kind not in BINARIES:
        pytest.skip("this machine has no redis-server")
    redis = start_redis(binary=BINARIES[kind])
    user = ACL.format(commands=acl_commands).split()
    redis.raw.execute_command("ACL", "SETUSER", "memoryd", *user)
    redis.raw.execute_command("ACL", "SETUSER", "default", "off")
    authority = Authority(short_folder, "redis-authority")
    front = TlsFront(authority.issue("redis-server"), redis.url.removeprefix("unix://"))
    url = f"rediss://memoryd:s3cret-word@127.0.0.1:{front.port}?ssl_ca_certs={authority.path}"

    daemon = start_daemon(redis_url=url)
    with daemon.client() as client:
        client.create_session(name)
        client.append_stream(name, "many words " * 200)
        assert client.query(name, "What?", sampling=ONE).text() is not None
        client.chat(name, "Hello", sampling=ONE).text()
        made = client.create_api_key("ada", [Scope.READ])
        assert client.list_api_keys() == [made.key]
        client.revoke_api_key(made.key.id)
        assert [session.name for session in client.list_sessions()] == [name]
        assert client.get_stats().storage == f"rediss://127.0.0.1:{front.port}"
        client.snapshot_session(name, "before")
        assert [snapshot.name for snapshot in client.list_snapshots(name)] == ["before"]
        client.fork_session(name, f"{name} fork")
        client.restore_session(name, "before")
        client.delete_snapshot(name, "before")
        client.import_session(f"{name} copy", client.export_session(name))
        client.delete_session(name)
        client.create_session(name)
        client.append(name, "again")
    assert daemon.terminate() == 0  # checkpointed and released
    log = daemon.log_path.read_text()
    assert "s3cret-word" not in log
    assert "NOPERM" not in log
    assert "refuse" not in log
    front.close()
