"""A lease is asked for once a second's worth, debts are paid first, and nothing is taken twice."""

import asyncio
import random

import pytest

from memoryd.errors import QuotaExceeded
from memoryd.quotas.tokens import LEASE_SECONDS, TokenLease
from memoryd.storage.tenants import TenantStore

LIMIT = 600
SHARE = 10


@pytest.fixture
def lease(figures, clock) -> TokenLease:
    store: TenantStore = figures
    return TokenLease(store, "t", "d", clock)


async def test_a_lease_is_used_before_the_bucket_is_asked_again(figures, lease):
    for _ in range(SHARE * 5):
        await lease.admit(LIMIT)
        lease.charge(1)
    assert [given for _, _, given in figures.spent] == [SHARE] * 5
    assert figures.level == LIMIT - 5 * SHARE


async def test_a_debt_is_paid_before_anything_else(figures, lease):
    await lease.admit(LIMIT)
    lease.charge(SHARE + 1000)
    with pytest.raises(QuotaExceeded) as refused:
        await lease.admit(LIMIT)
    assert figures.spent[-1] == (2, 1000, 0)
    error = refused.value
    assert error.facts == {"quota": "tokens_per_minute", "limit": "600", "used": "1010"}
    # Until the bucket holds a lease again, at ten tokens a second.
    assert error.retry_after == pytest.approx((410 + SHARE) / 10)
    figures.level = 5
    await lease.admit(LIMIT)
    assert figures.spent[-1] == (3, 0, 5)


@pytest.mark.parametrize("seed", range(20))
async def test_what_is_used_is_taken_out_of_the_bucket_to_the_token(figures, lease, seed):
    draw = random.Random(seed)
    used = 0
    for _ in range(200):
        figures.lost = draw.random() < 0.2
        try:
            await lease.admit(LIMIT)
        except QuotaExceeded:
            figures.level += draw.randrange(200)
            continue
        tokens = draw.randrange(30)
        lease.charge(tokens)
        used += tokens
    await lease.settle()
    await lease.settle()
    taken = sum(owed + given for _, owed, given in figures.spent)
    held = taken - used
    assert 0 <= held <= SHARE


async def test_a_lease_lapses(figures, lease, clock):
    await lease.admit(LIMIT)
    clock.now += LEASE_SECONDS
    await lease.admit(LIMIT)
    assert len(figures.spent) == 2
    lease.charge(SHARE)  # of the second lease: what was left of the first has lapsed
    await lease.admit(LIMIT)
    assert [owed for _, owed, _ in figures.spent] == [0, 0, 0]


async def test_everybody_is_admitted_while_the_bucket_is_silent_and_pays_later(figures, lease):
    figures.silence(True)
    for _ in range(5):
        await lease.admit(LIMIT)
        lease.charge(100)
    assert figures.calls == ["spend"]  # one question, however many wait for it
    figures.silence(False)
    await lease.settle()  # the answer to what was asked
    await lease.settle()
    assert sum(owed for _, owed, _ in figures.spent) == 500 - SHARE
    await lease.admit(LIMIT)


async def test_calls_at_the_same_time_ask_once(figures, lease):
    await asyncio.gather(*(lease.admit(LIMIT) for _ in range(20)))
    assert figures.calls == ["spend"]
