"""Getting rid of a session that nothing else can touch, because its record cannot be read."""

from memoryd.errors import BadArgument, StateCorrupt
from memoryd.sessions.manager import SessionManager
from memoryd.storage.keys import SessionKey


async def discard(manager: SessionManager, key: SessionKey) -> int:
    """Deletes every key of the session; gives their number.

    Whoever still has it in memory is refused by the next fence. Raises SessionNotFound, and
    BadArgument for a session that can be read.
    """
    try:
        await manager.record(key)
    except StateCorrupt:
        return await manager.services.store.discard(key)
    raise BadArgument(
        f"session {key} can be read: its tenant deletes it, with a key that may write",
        session=key.name,
    )
