"""Whose turn it is: the tenant that was served longest ago, so that none waits for a busy one."""

from __future__ import annotations


class Turns:
    """Tenants in the order in which they were last served. A tenant never served comes first."""

    def __init__(self) -> None:
        self._count = 0
        self._served: dict[str, int] = {}

    def rank(self, tenant: str) -> int:
        """The lower, the sooner."""
        return self._served.get(tenant, 0)

    def served(self, tenant: str) -> None:
        self._count += 1
        self._served[tenant] = self._count

    def forget(self, tenant: str) -> None:
        """The tenant has nothing here any more."""
        self._served.pop(tenant, None)
