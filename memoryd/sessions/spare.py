"""A slot that belongs to no session: what a session read is read in it once more."""

import asyncio
import uuid
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager

from memoryd.engine.messages import Captured
from memoryd.errors import MemorydError
from memoryd.sessions.manager import SessionManager
from memoryd.storage.codec import Array


class SpareSlot:
    """Reads tokens that are fed to it. absorbed: where in the stream it stands."""

    def __init__(self, manager: SessionManager, key: str, offset: int) -> None:
        self._engine = manager.services.engine
        self._key = key
        self._news = asyncio.Event()
        self._failure = ""
        self.absorbed = offset

    def on_absorbed(self, offset: int) -> None:
        self.absorbed = offset
        self._news.set()

    def on_failed(self, reason: str) -> None:
        self._failure = reason
        self._news.set()

    def feed(self, tokens: Sequence[int]) -> None:
        self._raise_if_failed()
        self._engine.feed(self._key, tokens)

    def _raise_if_failed(self) -> None:
        if self._failure:
            raise MemorydError(
                f"the model failed while it read the session again ({self._failure}); retry"
            )

    async def reached(self, offset: int) -> None:
        """Waits until `offset` is absorbed, which must lie within the whole chunks fed."""
        while self.absorbed < offset:
            self._raise_if_failed()
            self._news.clear()
            await self._news.wait()

    async def capture(self) -> Captured:
        return await self._engine.capture(self._key)


@asynccontextmanager
async def spare_slot(
    manager: SessionManager,
    *,
    tenant: str,
    offset: int = 0,
    arrays: Mapping[str, Array] | None = None,
    background: bool,
) -> AsyncGenerator[SpareSlot]:
    """A slot from here to the end of the context, however that ends. Raises as `locate` does."""
    key = f"spare#{uuid.uuid4().hex}"
    slot = SpareSlot(manager, key, offset)
    await manager.open_slot(
        key,
        offset,
        arrays,
        tenant=tenant,
        background=background,
        on_absorbed=slot.on_absorbed,
        on_failed=slot.on_failed,
    )
    try:
        yield slot
    finally:
        await manager.services.engine.close(key)
