"""What a migration stages is staged to its end before it is dropped."""

import asyncio

import pytest

from memoryd.sessions.migrating import uninterrupted


async def test_a_cancelled_caller_leaves_when_the_work_has_ended():
    may_end, ended = asyncio.Event(), []

    async def work() -> None:
        await may_end.wait()
        ended.append(True)

    caller = asyncio.create_task(uninterrupted(work()))
    await asyncio.sleep(0)
    caller.cancel()
    for _ in range(5):  # turns of the loop, in which a caller that is not held back would leave
        await asyncio.sleep(0)
    assert not caller.done()
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert ended


async def test_the_outcome_is_the_works():
    async def give() -> int:
        return 3

    async def fail() -> None:
        raise ValueError("as it was")

    assert await uninterrupted(give()) == 3
    with pytest.raises(ValueError, match="as it was"):
        await uninterrupted(fail())
