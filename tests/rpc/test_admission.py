"""Places for replies are bounded, given back, and never all one tenant's."""

from contextlib import ExitStack

import pytest

from memoryd.errors import LanesBusy
from memoryd.rpc.admission import LONGEST_DELAY, SHORTEST_DELAY, Admission


def fill(admission: Admission, tenant: str, stack: ExitStack) -> int:
    """Takes places until there is none left for the tenant; their number."""
    before = admission.taken

    def take_all() -> None:
        while True:
            stack.enter_context(admission.place(tenant))

    with pytest.raises(LanesBusy) as refused:
        take_all()
    assert SHORTEST_DELAY <= refused.value.retry_after <= LONGEST_DELAY
    return admission.taken - before


async def test_so_many_as_there_are_lanes_and_places_to_wait():
    with ExitStack() as stack:
        assert fill(Admission(lanes=2, waiting=3), "ada", stack) == 5
    with ExitStack() as stack:
        assert fill(Admission(lanes=2, waiting=0), "ada", stack) == 2


async def test_a_place_is_given_back_whatever_ends_the_reply():
    admission = Admission(lanes=1, waiting=0)
    for _ in range(3):
        with pytest.raises(RuntimeError), admission.place("ada"):
            raise RuntimeError
    assert admission.taken == 0
    assert not admission._by_tenant


async def test_a_tenant_that_takes_what_it_can_leaves_places_to_others():
    admission = Admission(lanes=2, waiting=8)
    with ExitStack() as stack:
        assert fill(admission, "busy", stack) == 8
        assert fill(admission, "ada", stack) == 2
        with pytest.raises(LanesBusy), admission.place("bob"):
            pass
    assert admission.taken == 0


@pytest.mark.parametrize(("lanes", "seconds"), [(1, 10.0), (5, 2.0), (1000, 0.2)])
async def test_the_delay_follows_from_how_long_replies_take(lanes, seconds):
    admission = Admission(lanes, waiting=0)
    admission._reply_seconds = 10.0
    admission.taken = lanes
    with pytest.raises(LanesBusy) as refused, admission.place("ada"):
        pass
    assert refused.value.retry_after == seconds
