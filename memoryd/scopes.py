"""What a key may do. A key has any of the three scopes; none of them implies another."""

from enum import StrEnum


class Scope(StrEnum):
    """READ: see and ask sessions of its tenant. WRITE: make, change and delete them.

    ADMIN: run the daemons and hand out keys to every tenant. It is the operator's.
    """

    READ = "read"
    WRITE = "write"
    ADMIN = "admin"


ALL_SCOPES = frozenset(Scope)
