"""Archives: written with the journal or not at all, copied once, kept as long as needed."""

import pytest

from memoryd.errors import OwnershipLost, StateCorrupt
from memoryd.storage.errors import JournalGap

WRITE = {"text": b"", "writers": b"", "fields": {}}


@pytest.fixture
async def archived(store, key):
    """The lease of an empty archived session."""
    record = await store.create(key, model="m", archive=True)
    taken = await store.acquire(key, expected_owner="", expected_epoch=record.epoch, me="a")
    return taken.lease


async def read(store, lease, end):
    return b"".join([part async for part in store.archives.read(lease.key, lease.generation, end)])


async def test_one_script_writes_journal_and_archive_and_its_retry_neither(store, archived):
    for _ in range(2):
        end = await store.append(
            archived, op_id=1, expected_next=0, tokens=[1], archive=b"one", **WRITE
        )
        assert end == 1
    await store.append(
        archived, op_id=2, expected_next=1, tokens=[], expected_archived=3, archive=b"+", **WRITE
    )
    assert (await store.read(archived.key)).archived == 4
    assert await read(store, archived, 4) == b"one+"
    assert await read(store, archived, 2) == b"on"


async def test_an_append_elsewhere_than_at_the_archives_end_is_a_gap(store, archived):
    await store.append(archived, op_id=1, expected_next=0, tokens=[1], archive=b"one", **WRITE)
    for expected in (0, 2, 4):
        with pytest.raises(JournalGap) as gap:
            await store.append(
                archived,
                op_id=2,
                expected_next=1,
                tokens=[2],
                expected_archived=expected,
                archive=b"two",
                **WRITE,
            )
        assert (gap.value.actual, gap.value.archived) == (1, 3)
    assert await store.check(archived) == 1


async def test_only_the_owner_archives(store, archived):
    await store.acquire(archived.key, expected_owner="a", expected_epoch=archived.epoch, me="b")
    with pytest.raises(OwnershipLost):
        await store.append(archived, op_id=1, expected_next=0, tokens=[], archive=b"x", **WRITE)
    assert await read(store, archived, 0) == b""
    with pytest.raises(StateCorrupt):
        await read(store, archived, 1)


async def test_a_copy_is_staged_once_and_expires_until_it_is_installed(store, archived, server):
    key, archives = archived.key, store.archives
    for _ in range(2):
        assert await archives.stage(key, "g", 0, [b"one", b"two"]) == 6
    assert await archives.stage(key, "g", 6, [b"three"]) == 11
    with pytest.raises(StateCorrupt):
        await archives.stage(key, "g", 3, [b"two"])
    assert [part async for part in archives.read(key, "g", 11)] == [b"one", b"two", b"three"]
    assert 0 < server.raw.ttl(key.archive("g")) <= 600
    await archives.discard(key, "g")
    assert not server.raw.exists(key.archive("g"))


async def test_a_late_call_does_not_make_a_living_archive_expire(store, archived, server):
    await store.append(archived, op_id=1, expected_next=0, tokens=[1], archive=b"one", **WRITE)
    await store.archives.stage(archived.key, archived.generation, 0, [b"one"])
    assert server.raw.ttl(archived.key.archive(archived.generation)) == -1
    assert await read(store, archived, 3) == b"one"
