"""What a session's actor stores beside its journal, packed; Redis gives it back as it was, or not.

The state has a checksum and the journal its offsets. These short records are checked by their
shape: what does not have it is refused, never guessed at.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import msgpack

from memoryd.errors import StateCorrupt

Record = TypeVar("Record")


def unpack(packed: bytes, build: Callable[[Any], Record], what: str) -> Record:
    """`build` of what was packed. Raises StateCorrupt, with `what` to say which record it is."""
    try:
        return build(msgpack.unpackb(packed))
    except (
        ValueError,
        TypeError,
        ArithmeticError,
        AttributeError,
        msgpack.UnpackException,
    ) as error:
        raise StateCorrupt(
            f"the stored {what} cannot be read ({type(error).__name__}): restore a snapshot or "
            "create the session anew",
            record=what,
        ) from error
