"""Questions to Redis that a call can do without if they are not answered soon."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import structlog

from memoryd.errors import MemorydError

logger = structlog.get_logger(__name__)

PATIENCE = 0.5
"""Seconds that a call waits for what it could do without."""

Answer = TypeVar("Answer")


class Question(Generic[Answer]):
    """One question, asked once at a time; who wants to know meanwhile waits for the same answer.

    ask: runs to its end even if nobody waits any more. Callers wait `patience` seconds from when
    it was asked, all together: while Redis is away they are not held up one after the other.
    """

    def __init__(self, ask: Callable[[], Awaitable[Answer]], *, patience: float = PATIENCE) -> None:
        self._ask = ask
        self._patience = patience
        self._asked = 0.0
        self._task: asyncio.Future[Answer] | None = None

    async def answer(self) -> Answer | None:
        """The answer, None where none has come in time."""
        now = asyncio.get_running_loop().time()
        if self._task is None or self._task.done():
            self._task = asyncio.ensure_future(self._ask())
            self._task.add_done_callback(_noted)
            self._asked = now
        task = self._task
        await asyncio.wait({task}, timeout=max(0.0, self._asked + self._patience - now))
        if not task.done() or task.cancelled():
            return None
        if isinstance(task.exception(), MemorydError):
            return None
        return task.result()

    def close(self) -> None:
        """Breaks off what is being asked."""
        if self._task is not None:
            self._task.cancel()


def _noted(task: "asyncio.Future[Answer]") -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.warning("quota_not_answered", error=str(error))
