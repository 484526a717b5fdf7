"""How many replies may be under way or wait for a lane, so that a queue's end is not hopeless."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from memoryd.errors import LanesBusy

SHORTEST_DELAY, LONGEST_DELAY = 0.2, 30.0
_NEWEST = 0.2  # weight of the newest reply in the average length of one
_KEPT = 4  # of so many waiting places one is kept from the tenant that takes most


class Admission:
    """lanes: replies written at the same time. waiting: replies that may wait behind them.

    One tenant may have all lanes and three quarters of the waiting places.
    """

    def __init__(self, lanes: int, waiting: int) -> None:
        self._lanes = lanes
        self._places = lanes + waiting
        self._places_of_one = self._places - waiting // _KEPT
        self._by_tenant: Counter[str] = Counter()
        self._reply_seconds = 1.0
        self.taken = 0

    @contextmanager
    def place(self, tenant: str) -> Iterator[None]:
        """A place for one reply, from its call to its end. Raises LanesBusy."""
        for taken, places, whose in (
            (self.taken, self._places, ""),
            (self._by_tenant[tenant], self._places_of_one, "of yours "),
        ):
            if taken >= places:
                raise LanesBusy(
                    f"{taken} replies {whose}are being written or wait, which is all that may; "
                    "retry",
                    retry_after=self._delay(),
                    places=places,
                )
        clock = asyncio.get_running_loop().time
        began = clock()
        self.taken += 1
        self._by_tenant[tenant] += 1
        try:
            yield
        finally:
            self.taken -= 1
            self._by_tenant[tenant] -= 1
            if not self._by_tenant[tenant]:
                del self._by_tenant[tenant]
            self._reply_seconds += _NEWEST * (clock() - began - self._reply_seconds)

    def _delay(self) -> float:
        """Seconds until a place is free, if replies go on taking as long as the last ones did."""
        return min(max(self._reply_seconds / self._lanes, SHORTEST_DELAY), LONGEST_DELAY)
