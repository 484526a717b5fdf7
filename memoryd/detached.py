"""Work that outlives its caller."""

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

Result = TypeVar("Result")

# The event loop itself holds tasks weakly, and a cancelled caller holds none.
_running: set[asyncio.Future[Any]] = set()


async def detached(work: Awaitable[Result]) -> Result:
    """Wait for work that goes on if the caller is cancelled.

    A command that is broken off would leave its reply behind on a Redis connection.
    """
    task = asyncio.ensure_future(work)
    _running.add(task)
    task.add_done_callback(_running.discard)
    return await asyncio.shield(task)
