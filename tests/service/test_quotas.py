"""What a tenant may have holds over all daemons, is told to it alone, and hinders no reading."""

import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from harness.calls import Calls, refused_for
from harness.daemons import DaemonProcess
from harness.processes import wait_until
from harness.redis_servers import RedisProcess, server_binaries
from harness.streams import AT_ONCE, ENDLESS, absorbed
from memoryd.cli import app
from memoryd.storage.keys import TenantKey
from memoryd_client import (
    BadArgument,
    Client,
    QuotaExceeded,
    QuotaFigures,
    Sampling,
    Scope,
    SessionExists,
    SessionNotFound,
    SignatureRefused,
)
from memoryd_proto.errors import Reason
from memoryd_proto.v1 import admin_pb2

LONG, BRIEF = Sampling(max_tokens=ENDLESS), Sampling(max_tokens=2)


@dataclass(frozen=True)
class Tenants:
    """Two daemons on one server; a client speaks for a tenant of its own."""

    redis: RedisProcess
    daemons: tuple[DaemonProcess, DaemonProcess]
    operators: tuple[Client, Client]

    def tenant(self, name: str) -> tuple[Client, Client]:
        """One tenant's clients of both daemons; refusals are not waited for."""
        secret = self.key(name)
        one, two = (
            Client(daemon.address, api_key=secret, retry=AT_ONCE) for daemon in self.daemons
        )
        return one, two

    def key(self, name: str) -> str:
        return self.operators[0].create_api_key(name, [Scope.READ, Scope.WRITE]).secret


@pytest.fixture(scope="module")
def tenants(tiny_model: Path) -> Iterator[Tenants]:
    folder = Path(tempfile.mkdtemp(prefix="mds"))
    redis = RedisProcess(folder / "redis", server_binaries()["valkey"])
    keys = json.dumps([{"tenant": "ops", "sha256": hashlib.sha256(b"operator").hexdigest()}])
    daemons = tuple(
        DaemonProcess(
            folder / name,
            model=tiny_model,
            redis_url=redis.url,
            api_keys=keys,
            lanes=8,
            checkpoint_tokens=64,
            max_reply_tokens=ENDLESS,
            quota_sessions=50,
            storage_deadline=3,
        )
        for name in "ab"
    )
    operators = tuple(Client(daemon.address, api_key="operator") for daemon in daemons)
    yield Tenants(redis, daemons, operators)
    for daemon in daemons:
        daemon.kill()
    redis.resume()
    redis.kill()
    shutil.rmtree(folder, ignore_errors=True)


def known_by_both(tenants: Tenants, name: str, clients: tuple[Client, Client]) -> None:
    """Sets nothing, but waits until the daemon that did not set the limits has read them."""
    limits = tenants.operators[0].get_quota(name).limits
    assert tenants.operators[1].get_quota(name).limits == limits


def exceeded(quota: str, call: Callable[[], object]) -> QuotaExceeded:
    with pytest.raises(QuotaExceeded) as caught:
        call()
    error = caught.value
    assert error.facts["quota"] == quota
    assert int(error.facts["used"]) >= int(error.facts["limit"])
    return error


def test_no_more_sessions_than_allowed(tenants: Tenants, name: str) -> None:
    clients = tenants.tenant(name)
    tenants.operators[0].set_quota(name, sessions=3)
    known_by_both(tenants, name, clients)
    for number in range(3):
        clients[number % 2].create_session(str(number))
    for client in clients:
        error = exceeded("sessions", lambda client=client: client.create_session("one more"))
        assert error.facts["limit"] == "3"
        assert error.retry_after is None
        assert not error.retryable
        exceeded("sessions", lambda client=client: client.fork_session("0", "copy"))
    clients[0].create_session("0", exist_ok=True)
    clients[1].delete_session("1")
    clients[0].create_session("one more")
    assert tenants.operators[1].get_quota(name).used.sessions == 3
    # What is there stays where the limit is lowered, and is read, written and deleted.
    tenants.operators[0].set_quota(name, sessions=1)
    clients[0].append("0", "still here")
    assert clients[0].query("0", "What?", sampling=BRIEF).text() is not None


def test_an_expired_session_makes_room(tenants: Tenants, name: str) -> None:
    client, _ = tenants.tenant(name)
    tenants.operators[0].set_quota(name, sessions=1)
    client.create_session("short", ttl=timedelta(seconds=1))

    def gone() -> bool:
        try:
            client.get_session("short")
        except SessionNotFound:
            return True
        return False

    wait_until(gone, "the session has expired")
    client.create_session("next")


def test_a_refused_copy_uses_up_nothing(tenants: Tenants, name: str) -> None:
    client, _ = tenants.tenant(name)
    tenants.operators[0].set_quota(name, sessions=2)
    client.create_session("one")
    file = b"".join(client.export_session("one"))
    with pytest.raises(SignatureRefused):
        client.import_session("two", file)
    with pytest.raises(SessionExists):
        client.fork_session("one", "one")
    client.create_session("two")


def test_stored_bytes_are_measured_and_hold(tenants: Tenants, name: str) -> None:
    clients = tenants.tenant(name)
    operator = tenants.operators[0]
    clients[0].create_session("s")
    clients[0].append("s", "a text that is read to its end. " * 20)
    absorbed(clients[0], "s")
    list(clients[0].export_session("s"))  # checkpointed: what it keeps does not change any more
    used = operator.get_quota(name).used.stored_bytes
    assert used > 0
    operator.set_quota(name, stored_bytes=used)
    known_by_both(tenants, name, clients)
    for call in (
        lambda: clients[0].append("s", "more"),
        lambda: clients[1].append_stream("s", "more"),
        lambda: clients[0].chat("s", "more").text(),
        lambda: clients[1].create_session("t"),
        lambda: clients[0].snapshot_session("s", "now"),
        lambda: clients[1].fork_session("s", "t"),
    ):
        error = exceeded("stored_bytes", call)
        assert error.retry_after is None
    assert clients[1].query("s", "What?", sampling=BRIEF).text() is not None
    clients[0].delete_session("s")
    clients[1].create_session("t")
    operator.set_quota(name, defaults=["stored_bytes"])
    assert operator.get_quota(name).used.stored_bytes < used


def test_tokens_of_a_minute_hold_over_daemons(tenants: Tenants, name: str) -> None:
    clients = tenants.tenant(name)
    limit = 600
    tenants.operators[0].set_quota(name, tokens_per_minute=limit)
    known_by_both(tenants, name, clients)
    began = time.monotonic()
    taken, refusals = 0, []
    for client, session in zip(clients, "xy", strict=True):
        client.create_session(session)
    piece = "a few words of a text "
    counted = {"x": 0, "y": 0}
    while len(refusals) < 2:
        for client, session in zip(clients, "xy", strict=True):
            try:
                counted[session] = client.append(session, piece).offset.tokens
            except QuotaExceeded as error:
                refusals.append(error)
    taken = sum(counted.values())
    longest = max(counted.values())  # a message may go beyond, on each daemon
    flowed = limit * (1 + (time.monotonic() - began) / 60)
    assert limit / 2 < taken <= flowed + 2 * longest
    for error in refusals:
        assert error.facts["quota"] == "tokens_per_minute"
        assert error.retryable
        assert 0 < error.retry_after <= 60
    # Reading a reply is writing it: queries and streams are refused alike. What flows in for a
    # minute goes to pay a debt, so that no time that the calls take lets one pass.
    tenants.redis.raw.hset(TenantKey(name).tokens, "level", -limit)
    exceeded("tokens_per_minute", lambda: clients[0].query("x", "What?").text())
    exceeded("tokens_per_minute", lambda: clients[1].chat("y", "What?").text())
    exceeded("tokens_per_minute", lambda: clients[1].append_stream("y", piece))
    # Time goes on: the bucket's clock is set back.
    tenants.redis.raw.hincrby(TenantKey(name).tokens, "at_ms", -120_000)
    clients[0].append("x", piece)
    assert clients[0].query("x", "What?", sampling=BRIEF).text() is not None


def test_a_client_waits_out_a_delay_by_itself(tenants: Tenants, name: str) -> None:
    client, _ = tenants.tenant(name)
    tenants.operators[0].set_quota(name, tokens_per_minute=3000)
    client.create_session("s")
    while True:
        try:
            client.append("s", "a text of some words " * 10)
        except QuotaExceeded:
            break
    with Client(tenants.daemons[0].address, api_key=tenants.key(name)) as patient:
        before = patient.get_session("s").acked_tokens
        assert patient.append("s", "more").offset.tokens > before


def test_replies_at_the_same_time_hold_over_daemons(tenants: Tenants, name: str) -> None:
    clients = tenants.tenant(name)
    tenants.operators[0].set_quota(name, concurrent_queries=2)
    known_by_both(tenants, name, clients)
    for client, session in zip(clients, "xy", strict=True):
        client.create_session(session)
        client.append(session, "a river that flows")
    running = [
        client.query(session, "What?", sampling=LONG)
        for client, session in zip(clients, "xy", strict=True)
    ]
    for reply in running:
        next(iter(reply))
    for client, session in zip(clients, "xy", strict=True):
        for ask in (client.query, client.chat):
            error = exceeded("concurrent_queries", lambda a=ask, s=session: a(s, "What?").text())
            assert error.retry_after is not None
            assert error.retryable
    assert tenants.operators[1].get_quota(name).used.concurrent_queries == 2
    running[0].close()

    def admitted() -> bool:
        try:
            return (
                clients[1].query("y", "What?", sampling=Sampling(max_tokens=1)).text() is not None
            )
        except QuotaExceeded:
            return False

    wait_until(admitted, "the place of the reply that was closed is free on the other daemon")
    running[1].close()
    wait_until(
        lambda: not tenants.operators[0].get_quota(name).used.concurrent_queries,
        "no reply is counted any more",
    )


def test_reads_go_on_while_redis_does_not_answer(tenants: Tenants, name: str) -> None:
    clients = tenants.tenant(name)
    tenants.operators[0].set_quota(
        name, sessions=9, stored_bytes=1 << 30, tokens_per_minute=60_000, concurrent_queries=2
    )
    clients[0].create_session("s")
    clients[0].append("s", "a river that flows")
    assert clients[0].query("s", "What?", sampling=BRIEF).text() is not None
    tenants.redis.pause()
    try:
        reply = clients[0].query("s", "What?", allow_stale=True, sampling=BRIEF)
        assert reply.text() is not None
        assert reply.completion.stale
    finally:
        tenants.redis.resume()
    clients[0].append("s", "and on")


def test_another_tenants_quota_is_invisible(tenants: Tenants, name: str) -> None:
    other = f"{name}-other"
    mine, theirs = tenants.tenant(name)[0], tenants.tenant(other)[0]
    tenants.operators[0].set_quota(name, sessions=1, tokens_per_minute=1, concurrent_queries=1)
    mine.create_session("s")
    mine.append("s", "more than one token")
    exceeded("sessions", lambda: mine.create_session("t"))
    exceeded("tokens_per_minute", lambda: mine.append("s", "more"))
    for session in ("s", "t"):
        theirs.create_session(session)
        theirs.append(session, "a text of any length")
    # Whether a tenant exists, has limits, or is at one: who may not ask learns nothing.
    for request, method in (
        (admin_pb2.GetQuotaRequest, "GetQuota"),
        (admin_pb2.SetQuotaRequest, "SetQuota"),
    ):
        refusals = []
        for asked in (name, other, "nobody"):
            with Calls(tenants.daemons[0].address, key=tenants.key(other)) as calls:
                refusals.append(
                    refused_for(
                        Reason.SCOPE_MISSING,
                        lambda c=calls, r=request, m=method, a=asked: c.call(
                            getattr(c.admin, m), r(tenant=a)
                        ),
                    )
                )
        assert refusals[0] == refusals[1] == refusals[2]
    # A name that is somebody else's is refused for the same reason as any other.
    error = exceeded("sessions", lambda: mine.create_session("t"))
    assert "t" not in error.facts.values()


def test_limits_are_set_shown_and_taken_back(tenants: Tenants, name: str) -> None:
    operator = tenants.operators[0]
    fresh = operator.get_quota(name)
    assert fresh.limits == QuotaFigures(50, 0, 0, 0)
    assert fresh.own == ()
    assert fresh.used == QuotaFigures(0, 0, 0, 0)
    changed = operator.set_quota(name, stored_bytes=1 << 40, concurrent_queries=0, sessions=7)
    assert changed.limits == QuotaFigures(7, 1 << 40, 0, 0)
    assert set(changed.own) == {"sessions", "stored_bytes", "concurrent_queries"}
    back = operator.set_quota(name, defaults=["sessions"])
    assert back.limits.sessions == 50
    assert "sessions" not in back.own


def test_arguments_out_of_bounds(tenants: Tenants, name: str) -> None:
    operator = tenants.operators[0]
    for call in (
        lambda: operator.set_quota(name),
        lambda: operator.set_quota("", sessions=1),
        lambda: operator.set_quota(name, sessions=-1),
        lambda: operator.set_quota(name, stored_bytes=1 << 60),
        lambda: operator.set_quota(name, defaults=["slots"]),
        lambda: operator.set_quota(name, sessions=1, defaults=["sessions"]),
        lambda: operator.get_quota("a\0b"),
        lambda: operator.discard_session(name, ""),
    ):
        with pytest.raises(BadArgument):
            call()
    with pytest.raises(SessionNotFound):
        operator.discard_session(name, "nothing")


def test_the_command_line_sets_and_shows(tenants: Tenants, name: str) -> None:
    options = ["--target", tenants.daemons[0].address, "--api-key", "operator"]
    run = CliRunner().invoke
    limits = ["--sessions", "5", "--bytes", "2G", "--queries", "3"]
    made = run(app, ["admin", "quota", "set", name, *limits, *options])
    assert made.exit_code == 0, made.output
    shown = run(app, ["admin", "quota", "show", name, "--json", *options])
    told = json.loads(shown.output)
    assert told["limits"] == {
        "sessions": 5,
        "stored_bytes": 2 << 30,
        "tokens_per_minute": 0,
        "concurrent_queries": 3,
    }
    assert told["used"]["sessions"] == 0
    table = run(app, ["admin", "quota", "show", name, *options])
    assert "2.0 GiB" in table.output
    assert "no limit" in table.output
    back = run(app, ["admin", "quota", "set", name, "--default", "sessions", "--json", *options])
    assert json.loads(back.output)["limits"]["sessions"] == 50
    for wrong in (["--bytes", "much"], ["--default", "slots"], ["--sessions", "-1"]):
        assert run(app, ["admin", "quota", "set", name, *wrong, *options]).exit_code != 0
