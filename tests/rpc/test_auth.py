"""Tenant and scopes come from the key; a revoked one is worthless on every daemon within 10 s."""

import asyncio
import hashlib
from contextlib import suppress
from dataclasses import replace

import pytest

from memoryd.config import ApiKey
from memoryd.errors import BadCredentials, ScopeMissing, StorageUnavailable
from memoryd.rpc import permissions
from memoryd.rpc.auth import (
    DEFAULT_TENANT,
    KEY_SECONDS,
    RECHECK_SECONDS,
    Authenticator,
    Caller,
)
from memoryd.scopes import ALL_SCOPES, Scope
from memoryd.storage.api_keys import KeyRecord, digest
from memoryd_proto.v1 import admin_pb2, memory_pb2, session_pb2

KEY = "md_" + "a" * 16 + "_" + "1" * 64
RECORD = KeyRecord("a" * 16, "ada", (Scope.READ,), digest(KEY), created_ms=0)
SENT = {"authorization": f"Bearer {KEY}"}


class Stored:
    """Redis as all daemons see it. away: it does not answer."""

    def __init__(self, *records: KeyRecord) -> None:
        self.records = {record.id: record for record in records}
        self.away = False
        self.asked = 0

    async def get(self, identity: str) -> KeyRecord | None:
        self.asked += 1
        if self.away:
            raise StorageUnavailable("away")
        return self.records.get(identity)


class Clock:
    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def known(stored: Stored | None = None, clock: Clock | None = None, **keys: str) -> Authenticator:
    clock = clock or Clock()
    return Authenticator(
        [
            ApiKey(tenant=tenant, sha256=hashlib.sha256(key.encode()).hexdigest())
            for tenant, key in keys.items()
        ],
        stored or Stored(),
        clock=clock,
        now_ms=lambda: int(clock() * 1000),
    )


async def test_without_keys_everybody_is_one_tenant_that_may_do_all():
    caller = await known().caller({"authorization": "Bearer anything"})
    assert caller == Caller(DEFAULT_TENANT, ALL_SCOPES)


@pytest.mark.parametrize("header", ["Bearer secret", "bearer secret", "BEARER  secret "])
async def test_a_key_speaks_for_its_tenant(header):
    caller = await known(ada="secret", bob="other").caller({"authorization": header})
    assert caller == Caller("ada", ALL_SCOPES)


async def test_a_key_of_the_configuration_may_have_fewer_scopes():
    key = ApiKey(tenant="ada", sha256=digest("secret"), scopes=["read"])
    caller = await Authenticator([key], Stored()).caller({"authorization": "Bearer secret"})
    assert caller.scopes == {Scope.READ}


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"authorization": ""},
        {"authorization": "secret"},
        {"authorization": "Basic secret"},
        {"authorization": "Bearer Secret"},
        {"authorization": "Bearer " + hashlib.sha256(b"secret").hexdigest()},
        {"authorization": f"Bearer {KEY[:-1]}2"},
        {"authorization": f"Bearer {KEY}0"},
        {"authorization": f"Bearer md_{'b' * 16}_{'1' * 64}"},
        {"tenant": "ada"},
    ],
)
async def test_anything_else_is_refused_without_naming_a_tenant(metadata):
    with pytest.raises(BadCredentials) as refused:
        await known(Stored(RECORD), ada="secret").caller(metadata)
    assert "ada" not in refused.value.message
    assert refused.value.facts == {}


async def test_a_stored_key_brings_tenant_and_scopes():
    caller = await known(Stored(RECORD), operator="secret").caller(SENT)
    assert caller == Caller("ada", frozenset({Scope.READ}), RECORD.id)


async def test_a_stored_key_is_believed_for_a_while_and_then_asked_for_again():
    stored, clock = Stored(RECORD), Clock()
    here = known(stored, clock, operator="secret")
    await here.caller(SENT)
    clock.seconds += KEY_SECONDS - 0.01
    await here.caller(SENT)
    assert stored.asked == 1
    stored.records.clear()
    clock.seconds += 0.01
    with pytest.raises(BadCredentials):
        await here.caller(SENT)


async def test_where_a_key_was_revoked_it_is_worthless_at_once():
    stored = Stored(RECORD)
    here = known(stored, operator="secret")
    await here.caller(SENT)
    stored.records.clear()
    here.forget(RECORD.id)
    with pytest.raises(BadCredentials):
        await here.caller(SENT)


async def test_a_new_key_is_known_at_once():
    stored = Stored()
    here = known(stored, operator="secret")
    with pytest.raises(BadCredentials):
        await here.caller(SENT)
    stored.records[RECORD.id] = RECORD
    assert (await here.caller(SENT)).tenant == "ada"


async def test_an_expired_key_is_refused_though_it_is_believed():
    clock = Clock()
    here = known(Stored(replace(RECORD, expires_ms=101_000)), clock, operator="secret")
    await here.caller(SENT)
    clock.seconds = 101.0
    with pytest.raises(BadCredentials):
        await here.caller(SENT)


async def test_without_redis_a_stored_key_is_not_believed_for_longer_and_configured_ones_are():
    stored, clock = Stored(RECORD), Clock()
    here = known(stored, clock, operator="secret")
    await here.caller(SENT)
    stored.away = True
    await here.caller(SENT)
    clock.seconds += KEY_SECONDS
    with pytest.raises(StorageUnavailable):
        await here.caller(SENT)
    assert (await here.caller({"authorization": "Bearer secret"})).tenant == "operator"


async def test_made_up_ids_leave_nothing_behind():
    here = known(Stored(), operator="secret")
    for number in range(100):
        with pytest.raises(BadCredentials):
            await here.caller({"authorization": f"Bearer md_{number:016x}_{'1' * 64}"})
    assert not here._believed


async def test_calls_that_outlast_their_key_are_ended():
    stored, clock = Stored(RECORD), Clock()
    here = known(stored, clock, operator="secret")
    caller = await here.caller(SENT)
    reasons = []

    async def call(by: Caller) -> None:
        with here.call_by(by):
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                reasons.append(here.why_cut_off())
                raise

    foreign = asyncio.ensure_future(call(Caller("bob", ALL_SCOPES)))
    tasks = [asyncio.ensure_future(call(caller)) for _ in range(2)]
    await asyncio.sleep(0)
    await here.recheck()
    stored.records.clear()
    await here.recheck()  # still believed
    await asyncio.sleep(0)
    assert not reasons
    clock.seconds += KEY_SECONDS
    await here.recheck()
    await asyncio.wait(tasks)
    assert [type(reason) for reason in reasons] == [BadCredentials, BadCredentials]
    assert not foreign.done()
    foreign.cancel()
    with suppress(asyncio.CancelledError):
        await foreign
    assert reasons[2] is None
    assert not here._users
    assert not here._cut_off


def test_ten_seconds_are_enough_for_a_revocation_everywhere():
    assert KEY_SECONDS + RECHECK_SECONDS < 10


def test_every_call_of_every_service_stands_in_the_table():
    calls = {
        f"/{service.full_name}/{method.name}"
        for file in (session_pb2, memory_pb2, admin_pb2)
        for service in file.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }
    assert calls == set(permissions.NEEDED)
    assert all(permissions.NEEDED.values())


def test_a_call_with_too_few_scopes_is_refused_by_the_name_of_what_is_missing():
    reader = Caller("ada", frozenset({Scope.READ}))
    permissions.check(reader, "/memoryd.v1.MemoryService/Query")
    with pytest.raises(ScopeMissing) as refused:
        permissions.check(reader, "/memoryd.v1.MemoryService/Chat")
    assert refused.value.facts == {"missing": "write", "rpc": "Chat"}
    with pytest.raises(ScopeMissing):
        permissions.check(reader, "/memoryd.v1.MemoryService/NotInTheTable")


def test_the_admin_scope_does_not_open_sessions():
    operator = Caller("ops", frozenset({Scope.ADMIN}))
    permissions.check(operator, "/memoryd.v1.AdminService/Drain")
    for path in ("SessionService/GetSession", "MemoryService/Query", "MemoryService/Append"):
        with pytest.raises(ScopeMissing):
            permissions.check(operator, f"/memoryd.v1.{path}")
