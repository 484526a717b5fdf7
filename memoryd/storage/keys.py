"""The names of all keys, `md1:{<tenant>/<session>}:<kind>...`.

Both names are percent-encoded, so that no name can collide with another or break the hash tag in
braces, which puts all keys of a session into one cluster slot. `md1` is the version of the
protocol; a daemon's Redis user needs `~md1:*`.
"""

import unicodedata
from dataclasses import dataclass
from urllib.parse import quote

from memoryd.errors import BadArgument

MAX_NAME_BYTES = 256


def validate_name(name: str, what: str = "session name") -> str:
    """Return `name` if it is 1 to 256 bytes of UTF-8 without control characters.

    Raises BadArgument otherwise; `what` says in its sentence which name is meant.
    """
    try:
        length = len(name.encode())
    except UnicodeEncodeError:
        raise BadArgument(f"The {what} is not valid Unicode: send UTF-8.") from None
    if not 1 <= length <= MAX_NAME_BYTES:
        raise BadArgument(
            f"The {what} has {length} bytes: use 1 to {MAX_NAME_BYTES} bytes of UTF-8.",
            length=length,
        )
    if any(unicodedata.category(char) == "Cc" for char in name):
        raise BadArgument(f"The {what} holds a control character: leave it out.")
    return name


def _encoded(name: str) -> str:
    return quote(name, safe="")


@dataclass(frozen=True, slots=True)
class SessionKey:
    """A session's full name. Raises BadArgument for a name that cannot be one."""

    tenant: str
    name: str

    def __post_init__(self) -> None:
        validate_name(self.tenant, "tenant name")
        validate_name(self.name)

    def __str__(self) -> str:
        return f"{self.tenant}/{self.name}"

    @property
    def _prefix(self) -> str:
        return f"md1:{{{_encoded(self.tenant)}/{_encoded(self.name)}}}"

    @property
    def meta(self) -> str:
        """The hash that is the truth about the session."""
        return f"{self._prefix}:meta"

    @property
    def pattern(self) -> str:
        """Matches all keys of the session in SCAN: encoded names hold none of its wildcards."""
        return f"{self._prefix}:*"

    def journal(self, generation: str) -> str:
        """Name the stream of journalled tokens of one generation."""
        return f"{self._prefix}:journal:{generation}"

    def blob(self, generation: str, attempt: str) -> str:
        """Name the hash that holds the parts of one checkpoint attempt."""
        return f"{self._prefix}:blob:{generation}:{attempt}"

    def archive(self, generation: str) -> str:
        """Name the stream of what was said in one generation of an archived session."""
        return f"{self._prefix}:archive:{generation}"

    def snap(self, name: str) -> str:
        """Name the key of a snapshot."""
        return f"{self._prefix}:snap:{_encoded(name)}"


@dataclass(frozen=True, slots=True)
class TenantKey:
    """What is kept of a tenant as a whole, in a slot of its own."""

    tenant: str

    def __post_init__(self) -> None:
        validate_name(self.tenant, "tenant name")

    @property
    def _prefix(self) -> str:
        return f"md1:{{{_encoded(self.tenant)}}}"

    @property
    def index(self) -> str:
        """The sorted set of its session names.

        It is written before a session is created and swept afterwards, so it may name sessions that
        are gone; whether a session exists is for its meta hash to say.
        """
        return f"{self._prefix}:index"

    @property
    def bytes(self) -> str:
        """The hash of bytes by session, as far as they were counted."""
        return f"{self._prefix}:bytes"

    @property
    def quota(self) -> str:
        """The hash of the limits that the tenant has of its own."""
        return f"{self._prefix}:quota"

    @property
    def tokens(self) -> str:
        """The hash that is its bucket of tokens."""
        return f"{self._prefix}:tokens"

    @property
    def running(self) -> str:
        """The hash of replies under way by daemon."""
        return f"{self._prefix}:running"


def heartbeat_key(owner: str) -> str:
    """Name the key that lives as long as the daemon `owner`; its value is the daemon's address."""
    return f"md1:{{{_encoded(owner)}}}:heartbeat"


API_KEYS = "md1:api-keys"
"""The hash of all API keys; without braces, so that no tenant or session can have its name."""
