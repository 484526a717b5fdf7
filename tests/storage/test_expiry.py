"""All keys of a session die together, and use puts that off."""

import pytest

from memoryd.errors import SessionNotFound


def deaths(server, key) -> set[int]:
    return {server.raw.pexpiretime(name) for name in server.raw.keys(f"md1:{{{key.tenant}/*")}


async def test_all_keys_get_one_time_of_death_and_use_moves_it(
    server, store, key, owned, append, checkpoint
):
    lease = await owned(ttl_ms=1_000_000)
    await append(store, lease, 1, 0, 8)
    await store.commit(lease, await checkpoint(lease, 4))
    seen = deaths(server, key)
    assert len(server.raw.keys(f"md1:{{{key.tenant}/*")) == 3
    assert len(seen) == 1

    async def moved_by(use) -> None:
        nonlocal seen
        # An earlier death, as if time had passed since the last use.
        for name in server.raw.keys(f"md1:{{{key.tenant}/*"):
            server.raw.pexpire(name, 500_000)
        before = max(deaths(server, key))
        await use
        seen = deaths(server, key)
        assert len(seen) == 1
        assert min(seen) > before

    await moved_by(append(store, lease, 2, 8, 8))
    await moved_by(append(store, lease, 3, 16, 0))
    await moved_by(append(store, lease, 3, 16, 0))
    await moved_by(store.commit(lease, await checkpoint(lease, 16)))
    await moved_by(store.touch(lease))
    await moved_by(owned("daemon-b"))


async def test_without_a_ttl_nothing_expires(server, store, key, owned, append, checkpoint):
    lease = await owned()
    await append(store, lease, 1, 0, 8)
    await store.commit(lease, await checkpoint(lease, 8))
    assert deaths(server, key) == {-1}


async def test_an_expired_session_is_gone_with_all_its_keys(
    server, store, key, owned, append, checkpoint, until
):
    lease = await owned(ttl_ms=1_000_000)
    await append(store, lease, 1, 0, 8)
    await store.commit(lease, await checkpoint(lease, 4))
    [death] = deaths(server, key)
    for name in server.raw.keys(f"md1:{{{key.tenant}/*"):
        server.raw.pexpireat(name, death - 999_500)  # as if so much time had passed

    async def gone() -> bool:
        return await store.read(key) is None

    await until(gone)
    assert all(not server.raw.exists(name) for name in server.raw.keys(f"md1:{{{key.tenant}/*"))
    with pytest.raises(SessionNotFound):
        await append(store, lease, 2, 8, 1)
    fresh = await owned()
    assert fresh.generation != lease.generation
    assert await store.check(fresh) == 0


async def test_a_staged_blob_expires_unless_it_is_committed(
    server, key, owned, store, append, checkpoint
):
    lease = await owned()
    await append(store, lease, 1, 0, 8)
    ref = await checkpoint(lease, 8, b"x" * 1_200_000)
    name = key.blob(lease.generation, ref.attempt)
    assert 0 < server.raw.ttl(name) <= 600
    await store.commit(lease, ref)
    assert server.raw.ttl(name) == -1
