"""A reply as it is being generated, seen from the asyncio side."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from memoryd.engine.errors import GenerationFailed
from memoryd.engine.messages import Finished

if TYPE_CHECKING:
    from collections.abc import Callable

    from memoryd.engine.messages import GenerationEvent


class Generation:
    """Iterate over it once: Started, any number of Token, Finished.

    The iteration raises GenerationFailed, once, where there will be no Finished. After `cancel` it
    just ends. Wrap it in contextlib.aclosing, so that a caller that goes away frees the lane.
    """

    def __init__(self, cancel: Callable[[], None]) -> None:
        self._cancel = cancel
        self._events: asyncio.Queue[GenerationEvent | GenerationFailed | None] = asyncio.Queue()
        self._over = False
        self._begun = asyncio.Event()

    async def wait_started(self, timeout: float) -> bool:  # noqa: ASYNC109
        """Waits up to `timeout` seconds for something to iterate over; says whether there is."""
        try:
            async with asyncio.timeout(timeout):
                await self._begun.wait()
        except TimeoutError:
            return False
        return True

    def __aiter__(self) -> Generation:
        return self

    async def __anext__(self) -> GenerationEvent:
        event = None if self._over else await self._events.get()
        # A cancel may have come while this waited.
        if event is None or self._over:
            raise StopAsyncIteration
        if isinstance(event, GenerationFailed):
            self._over = True
            raise event
        self._over = isinstance(event, Finished)
        return event

    def cancel(self) -> None:
        """Ends the iteration now and frees the lane at the next step. Idempotent."""
        if not self._over:
            self._over = True
            self._events.put_nowait(None)
            self._begun.set()
            self._cancel()

    async def aclose(self) -> None:
        self.cancel()

    def push(self, event: GenerationEvent | GenerationFailed) -> None:
        """For the engine: the next event."""
        self._events.put_nowait(event)
        self._begun.set()
