"""A long random life of one session: owners change, connections break, checkpoints trim.

Whatever happens, every acknowledged token is there once and in order, and only the owner writes.
"""

import random
import struct

from memoryd.errors import OwnershipLost
from memoryd.storage import connection
from memoryd.storage.records import Lease

STEPS = 250
CHUNK = 8
ACTIONS = ["append", "checkpoint", "takeover", "ghost", "read"]


class Owner:
    """What a session's actor keeps: its lease and the number of its next operation."""

    def __init__(self, lease: Lease) -> None:
        self.lease = lease
        self.op = 1


async def test_nothing_acknowledged_is_lost_or_doubled(proxy, lossy, key, checkpoint, monkeypatch):
    monkeypatch.setattr(connection, "FIRST_DELAY", 0.0005)
    seed = random.randrange(2**32)
    print("seed", seed)  # noqa: T201
    rng = random.Random(seed)
    proxy.fate = lambda _: rng.choices(["answered", "answer lost", "request lost"], [8, 1, 1])[0]

    acknowledged: list[int] = []
    text, committed = b"", 0
    await lossy.create(key, model="m")

    async def take(me: str) -> Owner:
        record = await lossy.read(key)
        taken = await lossy.acquire(
            key, expected_owner=record.owner, expected_epoch=record.epoch, me=me
        )
        assert (taken.owner, taken.epoch) == (me, record.epoch + 1)
        assert (taken.next, taken.text) == (len(acknowledged), text)
        assert (taken.blob.offset if taken.blob else 0) == committed
        return Owner(taken.lease)

    owner, former = await take("a"), []
    for step in range(STEPS):
        action = rng.choices(
            ["append", "checkpoint", "takeover", "ghost", "read"], [10, 2, 1, 2, 2]
        )
        if action == ["append"]:
            tokens = [rng.randrange(2**32) for _ in range(rng.choice([0, 1, 3, 20]))]
            text = b"text %d" % step
            end = await lossy.append(
                owner.lease,
                op_id=owner.op,
                expected_next=len(acknowledged),
                tokens=tokens,
                text=text,
                writers=b"",
                fields={},
            )
            owner.op += 1
            acknowledged += tokens
            assert end == len(acknowledged)
        elif action == ["checkpoint"]:
            offset = len(acknowledged) // CHUNK * CHUNK
            if offset > committed:
                await lossy.commit(owner.lease, await checkpoint(owner.lease, offset))
                committed = offset
        elif action == ["takeover"]:
            former.append(owner)
            owner = await take(rng.choice("abc"))
        elif action == ["ghost"] and former:
            ghost = rng.choice(former)
            try:
                await lossy.append(
                    ghost.lease,
                    op_id=ghost.op,
                    expected_next=len(acknowledged),
                    tokens=[0],
                    text=b"ghost",
                    writers=b"",
                    fields={},
                )
            except OwnershipLost:
                continue
            raise AssertionError("a former owner could write")
        else:
            entries = await lossy.read_journal(owner.lease, committed)
            data = b"".join(tokens for _, tokens in entries)
            kept = list(struct.unpack(f"<{len(data) // 4}I", data))
            assert kept == acknowledged[len(acknowledged) - len(kept) :]
            assert len(kept) >= len(acknowledged) - committed
            assert (await lossy.read(key)).text == text
