"""Who is calling: the tenant comes from the credentials, never from the request."""

import hashlib
from collections.abc import Mapping, Sequence

from memoryd.config import ApiKey
from memoryd.errors import BadCredentials

DEFAULT_TENANT = "default"
_BEARER = "bearer "


class Authenticator:
    """Knows the deployment's keys by their digests. Without keys everybody is one tenant."""

    def __init__(self, keys: Sequence[ApiKey]) -> None:
        self._tenants = {key.sha256: key.tenant for key in keys}

    def tenant(self, metadata: Mapping[str, str]) -> str:
        """The caller's tenant. Raises BadCredentials."""
        if not self._tenants:
            return DEFAULT_TENANT
        header = metadata.get("authorization", "")
        if not header.lower().startswith(_BEARER):
            raise BadCredentials("this daemon asks for a key: send `authorization: Bearer <key>`")
        digest = hashlib.sha256(header[len(_BEARER) :].strip().encode()).hexdigest()
        tenant = self._tenants.get(digest)
        if tenant is None:
            raise BadCredentials("the key is not known here")
        return tenant
