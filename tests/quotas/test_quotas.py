"""What is admitted by figures that are counted after the fact, and by none if Redis is silent."""

import pytest

from memoryd.errors import QuotaExceeded
from memoryd.metrics import Metrics
from memoryd.quotas.quotas import BELIEVED_SECONDS, RECOUNT_SECONDS, Quotas
from memoryd.storage.keys import SessionKey
from memoryd.storage.tenants import LIMITS, Quota

KEY = SessionKey("t", "s")


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def make(figures, clock, metrics):
    def quotas(**defaults: int) -> Quotas:
        return Quotas(figures, Quota(**defaults), "d", metrics, clock)

    return quotas


def refused(metrics: Metrics, quota: str) -> float:
    labels = {"tenant": "t", "quota": quota}
    return metrics.registry.get_sample_value("memoryd_quota_refusals_total", labels) or 0.0


async def test_a_tenant_without_limits_costs_one_look_every_few_seconds(figures, make, clock):
    quotas = make()
    for _ in range(3):
        for _ in range(10):
            await quotas.admit_append("t")
            async with quotas.new_session(KEY), quotas.reply("t", remembered=True):
                quotas.charge("t", 100)
                quotas.changed(KEY)
        clock.now += BELIEVED_SECONDS
    assert figures.calls == ["read"] * 3


async def test_own_limits_go_before_defaults_and_are_read_again(figures, make, clock):
    quotas = make(concurrent_queries=1)
    figures.own = {"concurrent_queries": 2}
    async with quotas.reply("t", remembered=False), quotas.reply("t", remembered=False):
        figures.own = {}
        with pytest.raises(QuotaExceeded, match="2 of 2"):
            async with quotas.reply("t", remembered=False):
                pass
        clock.now += BELIEVED_SECONDS
        with pytest.raises(QuotaExceeded, match="of 1 replies"):
            async with quotas.reply("t", remembered=False):
                pass


async def test_what_was_stored_before_anybody_counted_is_counted_first(figures, make, metrics):
    figures.noted, figures.sizes = {"s": 0, "gone": 70}, {"s": 100}
    quotas = make(stored_bytes=100)
    with pytest.raises(QuotaExceeded, match="100 of 100 bytes"):
        await quotas.admit_append("t")
    assert figures.noted == {"s": 100}
    assert refused(metrics, "stored_bytes") == 1
    assert metrics.registry.get_sample_value("memoryd_stored_bytes", {"tenant": "t"}) == 100


async def test_what_changed_is_counted_before_anybody_is_refused(figures, make, clock):
    figures.noted, figures.sizes = {"s": 0}, {"s": 100}
    quotas = make(stored_bytes=100)
    with pytest.raises(QuotaExceeded):
        await quotas.admit_bytes("t")
    figures.sizes["s"] = 40
    quotas.changed(KEY)
    await quotas.admit_bytes("t", 60)
    with pytest.raises(QuotaExceeded):
        await quotas.admit_bytes("t", 61)
    # What changed unseen is found when all sessions are measured, which is not done at once again.
    figures.sizes["s"] = 10
    with pytest.raises(QuotaExceeded):
        await quotas.admit_bytes("t", 61)
    clock.now += RECOUNT_SECONDS
    await quotas.admit_bytes("t", 61)


async def test_a_session_that_was_not_made_gives_its_place_back(figures, make, metrics):
    quotas = make(sessions=1)
    figures.noted, figures.sizes = {"first": 1}, {"first": 1}
    with pytest.raises(QuotaExceeded, match="1 of 1 sessions"):
        async with quotas.new_session(KEY):
            pass
    figures.noted, figures.sizes = {}, {}  # deleted; and all are not measured again at once
    with pytest.raises(RuntimeError):
        async with quotas.new_session(KEY):
            raise RuntimeError
    async with quotas.new_session(SessionKey("t", "other")):
        figures.sizes["other"] = 1
    with pytest.raises(QuotaExceeded, match="1 of 1 sessions"):
        async with quotas.new_session(KEY):
            pass
    async with quotas.new_session(SessionKey("t", "other")):
        pass
    assert refused(metrics, "sessions") == 2


async def test_a_silent_redis_lets_replies_go_on(figures, make):
    quotas = make(**dict.fromkeys(LIMITS, 5))
    figures.silence(True)
    async with quotas.reply("t", remembered=False):
        quotas.charge("t", 100)
    async with quotas.reply("t", remembered=False):
        pass
    figures.silence(False)


async def test_a_tenants_limits_are_nobody_elses(figures, make):
    quotas = make(concurrent_queries=1)
    async with quotas.reply("t", remembered=False):
        figures.running.clear()  # the stand-in knows one tenant
        async with quotas.reply("u", remembered=False):
            pass
