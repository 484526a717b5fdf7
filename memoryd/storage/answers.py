"""What all scripts have in common: the fence they are given, and how they refuse."""

from collections.abc import Sequence
from typing import NoReturn

from memoryd.errors import OwnershipLost, SessionNotFound
from memoryd.storage.keys import SessionKey
from memoryd.storage.records import Lease


def fence(lease: Lease) -> tuple[str, str, int]:
    """Return the arguments that a script compares with what is stored."""
    return lease.generation, lease.owner, lease.epoch


def pairs(flat: Sequence[bytes]) -> dict[bytes, bytes]:
    """Return a hash from the flat list in which a script gives it."""
    return dict(zip(flat[::2], flat[1::2], strict=True))


def not_found(key: SessionKey) -> SessionNotFound:
    return SessionNotFound(
        f"There is no session {key}: create it, or check its name.", session=key.name
    )


def refuse(key: SessionKey, answer: Sequence[bytes]) -> NoReturn:
    """Raise what a script's refusal means."""
    if answer[0] == b"NOT_FOUND":
        raise not_found(key)
    generation, owner, epoch = (part.decode() for part in answer[1:4])
    raise OwnershipLost(
        f"Session {key} is held by {owner or 'nobody'} (generation {generation}, epoch {epoch}): "
        "read it again and retry where it is owned.",
        session=key.name,
        generation=generation,
        owner=owner,
        epoch=epoch,
    )
