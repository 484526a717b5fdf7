"""What a cut holds is checked before it is used, and a staged copy is not dropped in doubt."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from lalte.text import Role
from memoryd.errors import (
    MemorydError,
    OwnershipLost,
    SessionExists,
    SessionNotFound,
    StateCorrupt,
    StorageFull,
    StorageUnavailable,
)
from memoryd.sessions.chat import ChatRecord, ChatRecords
from memoryd.sessions.copying import Planter, Seed, check_contents
from memoryd.sessions.text import TextState
from memoryd.sessions.writers import Ack, Writers
from memoryd.storage.cut import Cut
from memoryd.storage.errors import CheckpointIncomplete
from memoryd.storage.keys import SessionKey
from memoryd.storage.records import BlobRef
from memoryd.storage.store import pack_tokens

VOCABULARY = 100
CUT = Cut(
    key=SessionKey("tenant", "name"),
    generation="abcd",
    model="m@1",
    next=3,
    blob=None,
    tokens=pack_tokens([1, 2, 99]),
    text=TextState(True, Role.USER, "w", 5, "é".encode()[:1]).pack(),
    writers=Writers().applied("w", 1, Ack(3, 1)).pack(),
    fields=ChatRecords({"r": ChatRecord(1, b"digest", 7, (1, 99), "text", "stop")}).pack(),
    labels={},
    ttl_ms=0,
    archive=False,
    archived=0,
)


def many_writers() -> bytes:
    return Writers({f"w{number}": (1, 1, 0) for number in range(17)}).pack()


def chats(count: int = 1, **changes: object) -> dict[str, bytes]:
    record = replace(ChatRecord(1, b"digest", 7, (1, 99), "text", "stop"), **changes)
    return ChatRecords({f"r{number}": record for number in range(count)}).pack()


def test_what_a_session_holds_passes():
    check_contents(CUT, VOCABULARY)
    check_contents(replace(CUT, text=b"", writers=b"", fields={}), VOCABULARY)


@pytest.mark.parametrize(
    "changes",
    [
        {"tokens": pack_tokens([1, 2, 100])},
        {"tokens": pack_tokens([1, 2, 2**32 - 1])},
        {"text": TextState(True, Role.USER, "w", 5, b"\xff\xff").pack()},
        {"text": b"\x93\x01\x02\x03"},
        {"writers": b"\xc1"},
        {"writers": many_writers()},
        {"fields": {"chat:r": b"\x90"}},
        {"fields": chats(17)},
        {"fields": chats(reply=(1, 100))},
        {"fields": chats(reply=(-1,))},
        {"fields": chats(finish="bored")},
    ],
)
def test_what_no_session_holds_is_refused(changes):
    with pytest.raises(StateCorrupt):
        check_contents(replace(CUT, **changes), VOCABULARY)


@pytest.mark.parametrize(
    ("error", "dropped"),
    [
        (SessionExists("x"), True),
        (OwnershipLost("x"), True),
        (SessionNotFound("x"), True),
        (CheckpointIncomplete("attempt", 1), True),
        (StorageUnavailable("the outcome is not known"), False),
        (StorageFull("a first try may have been applied"), False),
    ],
)
async def test_a_staged_state_is_dropped_only_where_it_was_refused_for_certain(error, dropped):
    discarded = []

    async def discard(key: SessionKey, generation: str, attempt: str) -> None:
        discarded.append((key, generation, attempt))

    async def install(*args: object, **kwargs: object) -> None:
        raise error

    async def enlist(key: SessionKey) -> None:
        pass

    store = SimpleNamespace(enlist=enlist, snapshots=SimpleNamespace(install=install))
    services = SimpleNamespace(store=store, blobs=SimpleNamespace(discard=discard))
    seed = Seed(CUT, CUT.key, "ffff", BlobRef("attempt", 0, 1, 1, "00"))
    with pytest.raises((MemorydError, CheckpointIncomplete)):
        await Planter(SimpleNamespace(services=services)).plant(seed)
    assert discarded == ([(CUT.key, "ffff", "attempt")] if dropped else [])
