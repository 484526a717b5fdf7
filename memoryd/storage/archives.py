"""The archives of sessions: what was said, beside the journal of what the model reads.

An archive is one run of bytes that only grows, kept as a stream whose entry ids are end offsets in
bytes (`<end>-0`, field `a`), as the journal's are in tokens. An append writes its entry in the
script that writes the journal, so one acknowledgement covers both. No entry is longer than what one
script appends, and nothing ever rewrites one.

What the bytes mean is for the sessions to know. Here they are read, and copied to where a session
is being made; a copy expires by itself until an install makes it stay.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence

from memoryd.detached import detached
from memoryd.errors import StateCorrupt
from memoryd.storage import scripts
from memoryd.storage.client import Client
from memoryd.storage.keys import SessionKey

PAGE = 16
"""Entries read at once; one holds at most what an append wrote."""
STAGED_BYTES = 1 << 20
"""About as much is copied by one script."""
STAGING_SECONDS = 600
"""For which a copy waits for its install, counted anew with every piece of it."""


class ArchiveStore:
    """The part of the store that `Store.archives` gives; methods may raise as `Store`'s do."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def read(self, key: SessionKey, generation: str, end: int) -> AsyncGenerator[bytes]:
        """The first `end` bytes of an archive, cut where appends ended; may be cancelled.

        Raises StateCorrupt where some of them are missing: the session was deleted or replaced
        meanwhile, or its archive is damaged.
        """
        name = key.archive(generation)
        at = 0
        while at < end:
            asking = self._client.command("XRANGE", name, f"{at + 1}-0", "+", "COUNT", PAGE)
            page = await detached(asking)
            for identity, fields in page:
                data = bytes(fields[b"a"])
                if int(identity.split(b"-")[0]) - len(data) != at:
                    raise _missing(key, at, end)
                yield data[: end - at]
                at += len(data)
                if at >= end:
                    return
            if not page:
                raise _missing(key, at, end)

    async def read_back(
        self, key: SessionKey, generation: str
    ) -> AsyncGenerator[tuple[int, bytes]]:
        """The entries of an archive from its last to its first: (end in bytes, content)."""
        name = key.archive(generation)
        high = "+"
        while True:
            page = await self._client.command("XREVRANGE", name, high, "-", "COUNT", PAGE)
            for identity, fields in page:
                yield int(identity.split(b"-")[0]), bytes(fields[b"a"])
            if len(page) < PAGE:
                return
            high = f"({page[-1][0].decode()}"

    async def stage(
        self, key: SessionKey, generation: str, begin: int, pieces: Sequence[bytes]
    ) -> int:
        """Put the next bytes of a copy behind its first `begin`; gives where they end.

        pieces: each becomes one entry. Raises StorageFull, StateCorrupt where the copy expired.
        """
        answer = await self._client.call(
            scripts.STAGE_ARCHIVE, key.meta, generation, begin, STAGING_SECONDS, *pieces
        )
        if answer[0] != b"OK":
            raise StateCorrupt(
                f"The copy of an archive for session {key} ends at byte {int(answer[1])} and not "
                f"at {begin}: start over.",
                session=key.name,
            )
        return begin + sum(len(piece) for piece in pieces)

    async def copy(self, source: AsyncIterator[bytes], key: SessionKey, generation: str) -> int:
        """Stage all that `source` gives; gives its bytes. Raises as `stage`."""
        at, held, size = 0, list[bytes](), 0
        async for piece in source:
            held.append(piece)
            size += len(piece)
            if size >= STAGED_BYTES:
                at = await self.stage(key, generation, at, held)
                held, size = [], 0
        return await self.stage(key, generation, at, held) if held else at

    async def discard(self, key: SessionKey, generation: str) -> None:
        """Drop a staged copy that will not be installed."""
        await self._client.command("UNLINK", key.archive(generation))


def _missing(key: SessionKey, at: int, end: int) -> StateCorrupt:
    return StateCorrupt(
        f"The archive of session {key} has no entry at byte {at}, but {end} bytes were "
        "acknowledged: retry if the session was just replaced, else restore a snapshot.",
        session=key.name,
        reached=at,
        end=end,
    )
