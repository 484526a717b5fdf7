"""Replies at the same time: exactly as many as allowed, and as is known while Redis is silent."""

import asyncio

import pytest

from memoryd.errors import QuotaExceeded
from memoryd.quotas.replies import FORGOTTEN_SECONDS, RunningReplies


@pytest.fixture
def replies(figures, clock) -> RunningReplies:
    return RunningReplies(figures, "t", "d", clock)


async def told(figures, count: int) -> None:
    async with asyncio.timeout(60):
        while figures.running.get("d") != count:  # noqa: ASYNC110  told by tasks of their own
            await asyncio.sleep(0)


async def test_exactly_as_many_as_allowed_begin_however_many_try(figures, replies):
    figures.running["other"] = 2
    ends = await asyncio.gather(*(replies.begin(5) for _ in range(9)), return_exceptions=True)
    assert sum(end is None for end in ends) == replies.count == 3
    assert all(isinstance(end, QuotaExceeded) for end in ends if end)
    assert figures.running["d"] == 3
    for _ in range(3):
        replies.end()
    await told(figures, 0)


async def test_a_refusal_names_what_is_used(figures, replies):
    figures.running["other"] = 4
    with pytest.raises(QuotaExceeded) as refused:
        await replies.begin(4)
    assert refused.value.facts == {"quota": "concurrent_queries", "limit": "4", "used": "4"}
    assert refused.value.retry_after is not None
    assert replies.count == 0


async def test_a_silent_redis_leaves_each_daemon_its_own_limit(
    figures, replies, clock, monkeypatch
):
    figures.silence(True)
    await replies.begin(2)
    clock.now += 100
    monkeypatch.setattr("memoryd.quotas.replies.PATIENCE", 90.0)
    async with asyncio.timeout(60):
        await replies.begin(2)
    with pytest.raises(QuotaExceeded):
        await replies.begin(2)
    assert figures.calls == ["run"]  # the second did not wait for what the first was not told
    figures.silence(False)
    await told(figures, 1)  # what was asked is answered, as it was asked
    replies.remind()
    await told(figures, 2)


async def test_a_cancelled_call_gives_its_place_back(figures, replies):
    figures.silence(True)
    beginning = asyncio.ensure_future(replies.begin(1))
    await asyncio.sleep(0)
    assert replies.count == 1
    beginning.cancel()
    with pytest.raises(asyncio.CancelledError):
        await beginning
    assert replies.count == 0
    figures.silence(False)
    await replies.begin(1)


async def test_long_replies_are_not_forgotten(figures, replies, clock):
    await replies.begin(2)
    figures.running.clear()  # its time was over
    replies.remind()
    assert not figures.running
    clock.now += FORGOTTEN_SECONDS / 2
    replies.remind()
    await told(figures, 1)
