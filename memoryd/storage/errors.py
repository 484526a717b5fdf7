"""What only storage can say: outcomes that the session's actor handles, and start-up refusals."""

from memoryd.errors import StorageUnavailable
from memoryd.storage.keys import SessionKey


class JournalGap(Exception):
    """The journal ends elsewhere than its owner believes.

    expected: the offset that the owner holds for the journal's end.
    actual: the offset that Redis holds. Below `expected`, Redis lost acknowledged writes
    (failover or power loss under a level that allows it).
    archived: where the archive ends in Redis, None from an operation that does not look at it.
    """

    def __init__(self, expected: int, actual: int, archived: int | None = None) -> None:
        super().__init__(
            f"The journal ends at {actual}, not at {expected}: journal again what lies between, "
            "or drop the state in memory and reload."
        )
        self.expected = expected
        self.actual = actual
        self.archived = archived


class StaleCheckpoint(Exception):
    """A checkpoint at or behind the committed one; it can be dropped.

    offset: where the refused checkpoint stands. committed: where the stored one stands.
    """

    def __init__(self, offset: int, committed: int) -> None:
        super().__init__(
            f"A checkpoint at {committed} is committed; drop the one at {offset}: the pointer "
            "only moves forward."
        )
        self.offset = offset
        self.committed = committed


class CheckpointIncomplete(Exception):
    """The blob to be committed is not there with all its parts, or expired before its commit."""

    def __init__(self, attempt: str, parts: int) -> None:
        super().__init__(
            f"The blob of attempt {attempt} lacks some of its {parts} parts: write the checkpoint "
            "again under a new attempt."
        )
        self.attempt = attempt
        self.parts = parts


class CutMoved(Exception):
    """The session no longer stands where it was cut: cut it again."""

    def __init__(self, key: SessionKey) -> None:
        super().__init__(f"Session {key} went on while it was being cut: cut it again.")
        self.key = key


class UnsuitableServer(StorageUnavailable):
    """The server answers, but sessions would not be safe on it; the daemon must not start."""


class ServerBinaryMissing(StorageUnavailable):
    """No server program was found for the embedded server."""


class ServerTooOld(StorageUnavailable):
    """The data folder was written by a newer server, or by another kind of server."""


class DataFolderBusy(StorageUnavailable):
    """Another live daemon uses the data folder."""


class TenantFull(Exception):
    """A tenant has as many of something as it may. used: how many."""

    def __init__(self, used: int) -> None:
        super().__init__(f"{used} are in use: end one, or raise the tenant's limit.")
        self.used = used
