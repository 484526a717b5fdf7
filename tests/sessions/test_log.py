"""The owner's copy and the journal agree, whatever becomes of the server in between."""

import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

import pytest

from harness.redis_servers import RedisProcess
from lalte.text import Role
from memoryd.errors import (
    AcknowledgedLost,
    OwnershipLost,
    StateCorrupt,
    StorageFull,
    StorageUnavailable,
)
from memoryd.sessions.archive import RecentFrames
from memoryd.sessions.chat import ChatRecords
from memoryd.sessions.log import Change, SessionLog
from memoryd.sessions.recent import RecentTokens
from memoryd.sessions.text import TextState
from memoryd.sessions.writers import Ack, Writers
from memoryd.storage.keys import SessionKey
from memoryd.storage.records import SessionRecord
from memoryd.storage.store import Store

KEY = SessionKey("t", "s")


@dataclass
class Owned:
    """A log under test, and what it said was durable."""

    store: Store
    record: SessionRecord
    log: SessionLog
    told: list[int] = field(default_factory=list)

    async def write(self, *tokens: int, chat: str = "") -> None:
        """Journals tokens as the next message of one writer."""
        await self.log.settle()
        log, end = self.log, self.log.next + len(tokens)
        chats = log.chats
        if chat:
            chats = chats.put(chat, chats.new(b"hello", seed=end))
        text = TextState(True, Role.USER, "w", end, b"tail")
        await log.write(Change(tokens, text, log.writers.applied("w", end, Ack(end, 4)), chats))

    async def journal(self) -> list[int]:
        """Tokens in Redis; they must be those that the log has told of."""
        stored = await self.store.read_journal(self.record.lease, 0)
        return list(struct.unpack(f"<{self.log.next}I", b"".join(tokens for _, tokens in stored)))

    async def agrees(self) -> bool:
        """Redis holds just what this owner holds."""
        record = await self.store.read(KEY)
        return (
            record is not None
            and record.next == self.log.next == len(self.told)
            and await self.journal() == self.told
            and TextState.unpack(record.text) == self.log.text
            and Writers.unpack(record.writers).pack() == self.log.writers.pack()
            and ChatRecords.unpack(record.fields).records == self.log.chats.records
        )


@pytest.fixture
def own(store: Store) -> Callable[[], Awaitable[Owned]]:
    async def take() -> Owned:
        record = await store.read(KEY) or await store.create(KEY, model="m")
        taken = await store.acquire(
            KEY, expected_owner=record.owner, expected_epoch=record.epoch, me="me"
        )
        assert taken is not None
        told: list[int] = []
        log = SessionLog(store, taken, RecentTokens(0), RecentFrames(taken.archived), told.extend)
        return Owned(store, taken, log, told)

    return take


async def test_what_is_written_is_told_and_stored_once(own):
    owned = await own()
    assert await owned.agrees()
    await owned.write(1, 2, 3, chat="r")
    await owned.write()
    await owned.write(4)
    assert owned.told == [1, 2, 3, 4]
    assert await owned.agrees()
    again = SessionLog(
        owned.store, await owned.store.read(KEY), RecentTokens(4), RecentFrames(0), lambda _: None
    )
    assert (again.next, again.text, again.chats.records) == (
        owned.log.next,
        owned.log.text,
        owned.log.chats.records,
    )


async def test_an_unknown_outcome_is_found_out_before_anything_else_is_written(own, redis):
    owned = await own()
    await owned.write(1)
    redis.pause()  # takes the message, and does it when it goes on
    with pytest.raises(StorageUnavailable):
        await owned.write(2, 3, chat="r")
    assert owned.told == [1]
    with pytest.raises(StorageUnavailable):
        await owned.log.settle()
    redis.resume()
    await owned.write(4)
    assert owned.told == [1, 2, 3, 4]
    assert await owned.agrees()


def free(redis: RedisProcess, owned: Owned) -> None:
    """There is memory again, and the figures that are believed for a second say so, too."""
    redis.raw.config_set("maxmemory", 0)
    owned.store._memory_read_at = float("-inf")


async def test_full_memory_changes_nothing(own, redis):
    owned = await own()
    await owned.write(1)
    redis.raw.config_set("maxmemory", 1)
    with pytest.raises(StorageFull):
        await owned.write(2)
    assert owned.told == [1]
    free(redis, owned)
    assert await owned.agrees()
    await owned.write(3)
    assert await owned.agrees()
    assert owned.told == [1, 3]


async def test_a_write_that_was_applied_before_memory_ran_out_is_not_forgotten(own, redis):
    owned = await own()
    await owned.write(1)
    redis.pause()
    with pytest.raises(StorageUnavailable):
        await owned.write(2)
    redis.resume()
    redis.raw.config_set("maxmemory", 1)
    with pytest.raises(StorageFull):
        await owned.log.settle()
    free(redis, owned)
    await owned.write(3)
    assert owned.told == [1, 2, 3]
    assert await owned.agrees()


def forget(redis: RedisProcess, owned: Owned, survived: int) -> None:
    """What a failover may do: the journal ends at an earlier entry."""
    journal = KEY.journal(owned.record.generation)
    kept = redis.raw.xrange(journal, max=f"{survived}-0")
    redis.raw.delete(journal)
    for name, entry in kept:
        redis.raw.xadd(journal, entry, id=name)
    redis.raw.hset(KEY.meta, mapping={"next": survived, "op": 1, "op_result": survived})


async def test_what_redis_lost_is_written_again(own, redis):
    owned = await own()
    for token in range(5):
        await owned.write(token, chat="r" if token == 4 else "")
    forget(redis, owned, 2)
    await owned.write(5)
    assert owned.told == list(range(6))
    assert await owned.agrees()


async def test_what_redis_lost_is_written_again_through_a_server_that_hangs(own, redis):
    owned = await own()
    for token in range(5):
        await owned.write(token)
    forget(redis, owned, 2)
    append = owned.store.append

    async def hang_while_restoring(*arguments, **named):
        if named["expected_next"] == 2:
            owned.store.append = append
            redis.pause()
        return await append(*arguments, **named)

    owned.store.append = hang_while_restoring
    with pytest.raises(StorageUnavailable):
        await owned.write(5)
    redis.resume()
    await owned.write(6)
    assert owned.told == list(range(7))
    assert await owned.agrees()


async def test_what_nobody_knows_any_more_is_said(own, redis):
    owned = await own()
    for token in range(5):
        await owned.write(token)
    owned.log.recent.forget_before(4)
    forget(redis, owned, 2)
    with pytest.raises(AcknowledgedLost) as lost:
        await owned.write(5)
    assert lost.value.facts == {"offset": "2", "acknowledged": "5"}


async def test_a_later_owner_fences_the_log(own):
    first = await own()
    await first.write(1)
    second = await own()
    with pytest.raises(OwnershipLost):
        await first.write(2)
    assert await second.journal() == [1]


async def test_an_altered_record_is_refused(own):
    owned = await own()
    await owned.write(1, chat="r")
    record = await owned.store.read(KEY)
    for altered in (
        replace(record, text=b"\xc1"),
        replace(record, writers=b"\xc1"),
        replace(record, fields={"chat:r": b"\xc1"}),
    ):
        with pytest.raises(StateCorrupt):
            SessionLog(owned.store, altered, RecentTokens(1), RecentFrames(0), lambda _: None)


async def test_writers_survive_as_they_were_acknowledged(own):
    owned = await own()
    await owned.write(7, 8)
    record = await owned.store.read(KEY)
    assert Writers.unpack(record.writers).replayed("w", 2) == Ack(2, 4, replayed=True)
