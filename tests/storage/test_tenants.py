"""What is kept of a tenant as a whole: its list, its bytes, its bucket of tokens, its replies."""

import asyncio

import pytest

from memoryd.storage.cut import Cut
from memoryd.storage.errors import TenantFull
from memoryd.storage.keys import SessionKey, TenantKey
from memoryd.storage.tenants import GONE, Usage


def named(key: SessionKey, name: str) -> SessionKey:
    return SessionKey(key.tenant, name)


async def test_no_more_sessions_are_listed_than_allowed_however_many_try(store, key):
    outcomes = await asyncio.gather(
        *(store.tenants.enlist(named(key, str(n)), limit=3) for n in range(8)),
        return_exceptions=True,
    )
    refused = [outcome for outcome in outcomes if isinstance(outcome, TenantFull)]
    assert len(refused) == 5
    assert {one.used for one in refused} == {3}
    listed = await store.tenants.names(key.tenant, after="", count=9)
    assert len(listed) == 3
    await store.tenants.enlist(named(key, listed[0]), limit=3)  # on the list already
    await store.tenants.enlist(named(key, "without a limit"))
    assert len(await store.tenants.names(key.tenant, after="", count=9)) == 4


async def test_names_are_given_in_pages(store, key):
    for name in "cab":
        await store.tenants.enlist(named(key, name))
    assert await store.tenants.names(key.tenant, after="", count=2) == ["a", "b"]
    assert await store.tenants.names(key.tenant, after="b", count=2) == ["c"]


async def test_bytes_are_those_that_were_told_last(server, store, key):
    tenant, tenants = key.tenant, store.tenants
    assert await tenants.account(tenant, {"a": 10, "b": 5}) == Usage(2, 15)
    assert await tenants.account(tenant, {"a": 7}) == Usage(2, 12)
    assert await tenants.account(tenant, {"a": 7}) == Usage(2, 12)
    assert (await tenants.read(tenant))[1] == Usage(2, 12)
    assert await tenants.account(tenant, {"a": GONE, "nobody": GONE}) == Usage(1, 5)
    assert await tenants.account(tenant, {"b": GONE}) == Usage(0, 0)
    assert not server.raw.keys(f"*{tenant}*")


async def test_a_session_measures_all_that_it_keeps(store, key, owned, append, checkpoint, server):
    assert await store.tenants.measure(key) == GONE
    lease = await owned()
    assert await store.tenants.measure(key) == 0
    await append(store, lease, 1, 0, 10)
    beside = len(b"text 1") + len(b"writers 1")
    assert await store.tenants.measure(key) == 40 + beside
    ref = await checkpoint(lease, 8, b"x" * 1000)
    await store.commit(lease, ref)
    assert await store.tenants.measure(key) == 1000 + 8 + beside
    record = await store.read(key)
    cut = Cut(
        key=key,
        generation=lease.generation,
        model="m",
        next=10,
        blob=record.blob,
        tokens=bytes(8),
        text=b"",
        writers=b"",
        fields={},
        labels={},
        ttl_ms=0,
        archive=False,
        archived=0,
    )
    for name in ("one", "two"):
        await store.snapshots.take(lease, name, cut)
    cuts = 2 * len(cut.pack())
    assert await store.tenants.measure(key) == 1000 + 8 + beside + cuts
    # The checkpoint that both snapshots pin counts once more when the session has another one.
    await store.commit(lease, await checkpoint(lease, 10, b"y" * 500))
    assert await store.tenants.measure(key) == 500 + 1000 + beside + cuts
    await store.snapshots.delete(key, "one")
    await store.snapshots.delete(key, "two")
    assert await store.tenants.measure(key) == 500 + beside


async def test_a_deleted_session_is_counted_no_more(store, key, owned):
    await owned()
    await store.tenants.account(key.tenant, {key.name: 99})
    await store.delete(key)
    assert (await store.tenants.read(key.tenant))[1] == Usage(0, 0)


async def test_limits_are_set_and_taken_back(store, key):
    await store.tenants.set_limits(key.tenant, {"sessions": 3, "stored_bytes": 0})
    assert (await store.tenants.read(key.tenant))[0] == {"sessions": 3, "stored_bytes": 0}
    await store.tenants.set_limits(key.tenant, {"sessions": None})
    assert (await store.tenants.read(key.tenant))[0] == {"stored_bytes": 0}


async def test_a_bucket_gives_a_minutes_tokens_and_then_what_flows_in(server, store, key):
    """An hour of a bucket that is set back by hand: what was given is what flowed in."""
    tenant, limit = key.tenant, 6000
    bucket = TenantKey(tenant).tokens

    async def spend(op: int, owed: int, wanted: int) -> tuple[int, int]:
        grant = await store.tenants.spend(tenant, "d", op=op, limit=limit, owed=owed, wanted=wanted)
        return grant.tokens, grant.left

    assert await spend(1, 0, 100) == (100, 5900)
    granted, left = await spend(2, 0, 9000)
    assert granted == pytest.approx(5900, abs=200)
    assert left == 0
    given = 0
    for op in range(3, 33):
        server.raw.hincrby(bucket, "at_ms", -2000)  # two seconds: 200 tokens
        given += (await spend(op, 0, 9000))[0]
    assert given == pytest.approx(30 * 200, abs=600)  # and what flows in while the test runs
    # A debt is taken in any case, and paid before anybody is given more.
    assert (await spend(40, 3000, 1))[0] == 0
    server.raw.hincrby(bucket, "at_ms", -20_000)
    assert (await spend(41, 0, 1))[0] == 0
    server.raw.hincrby(bucket, "at_ms", -20_000)
    assert (await spend(42, 0, 1))[0] == 1
    assert 60_000 < server.raw.pttl(bucket) <= 120_000
    # It holds a minute's tokens, however long nobody asks.
    server.raw.hincrby(bucket, "at_ms", -3_600_000)
    assert await spend(43, 0, 1_000_000) == (limit, 0)


async def test_an_operation_sent_again_is_answered_as_it_was(store, key):
    async def spend(daemon: str, op: int) -> int:
        grant = await store.tenants.spend(key.tenant, daemon, op=op, limit=60, owed=10, wanted=10)
        return grant.left

    first = await spend("d", 1)
    assert await spend("d", 1) == first == 40
    assert 20 <= await spend("e", 1) < 40  # another daemon's, and a little that flowed in


async def test_replies_of_all_daemons_count_until_their_daemon_is_forgotten(server, store, key):
    async def run(daemon: str, count: int, ttl_ms: int = 60_000) -> int:
        return await store.tenants.run(key.tenant, daemon, count, limit=3, ttl_ms=ttl_ms)

    assert await run("a", 2) == 0
    assert await run("b", 1) == 2
    with pytest.raises(TenantFull) as full:
        await run("b", 2)
    assert full.value.used == 2
    assert await run("a", 0) == 1
    assert await run("b", 3) == 0
    running = TenantKey(key.tenant).running
    server.raw.hset(running, "b", b"3 1")  # its time is over: the daemon has died
    assert await run("a", 3) == 0
    assert server.raw.hkeys(running) == [b"a"]
