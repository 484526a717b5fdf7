"""Which scopes each call needs. A test holds the table and the services in step."""

from memoryd.errors import ScopeMissing
from memoryd.rpc.auth import Caller
from memoryd.scopes import ALL_SCOPES, Scope

_READ, _WRITE, _ADMIN = (frozenset({scope}) for scope in (Scope.READ, Scope.WRITE, Scope.ADMIN))
_SESSION, _MEMORY, _OPERATE = (
    f"/memoryd.v1.{service}/" for service in ("SessionService", "MemoryService", "AdminService")
)

NEEDED: dict[str, frozenset[Scope]] = {
    _SESSION + "CreateSession": _WRITE,
    _SESSION + "GetSession": _READ,
    _SESSION + "ListSessions": _READ,
    _SESSION + "UpdateSession": _WRITE,
    _SESSION + "DeleteSession": _WRITE,
    _SESSION + "ForkSession": _WRITE,
    _SESSION + "SnapshotSession": _WRITE,
    _SESSION + "ListSnapshots": _READ,
    _SESSION + "DeleteSnapshot": _WRITE,
    _SESSION + "RestoreSession": _WRITE,
    _SESSION + "ExportSession": _READ,
    _SESSION + "ImportSession": _WRITE,
    _SESSION + "VerifySession": _READ,
    _SESSION + "MigrateSession": _WRITE,
    _SESSION + "InspectSession": _READ,
    _MEMORY + "Append": _WRITE,
    _MEMORY + "AppendStream": _WRITE,
    _MEMORY + "Query": _READ,
    _MEMORY + "Chat": _READ | _WRITE,  # its reply tells what is remembered
    _MEMORY + "CancelChat": _WRITE,
    _OPERATE + "GetModel": _READ,
    _OPERATE + "GetStats": _ADMIN,  # of all tenants together
    _OPERATE + "Drain": _ADMIN,
    _OPERATE + "CreateApiKey": _ADMIN,
    _OPERATE + "ListApiKeys": _ADMIN,
    _OPERATE + "RevokeApiKey": _ADMIN,
    _OPERATE + "RotateApiKey": _ADMIN,
    _OPERATE + "GetQuota": _ADMIN,
    _OPERATE + "SetQuota": _ADMIN,
    _OPERATE + "DiscardSession": _ADMIN,
}


def check(caller: Caller, path: str) -> None:
    """Raises ScopeMissing. A call that is not in the table needs every scope."""
    missing = NEEDED.get(path, ALL_SCOPES) - caller.scopes
    if missing:
        names = ", ".join(sorted(missing))
        raise ScopeMissing(
            f"the key lacks the scope {names}: use one that has it",
            missing=names,
            rpc=path.rpartition("/")[2],
        )
