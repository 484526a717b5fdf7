"""API keys of all tenants: `md_<id>_<secret>`, of which only the SHA-256 is stored.

One hash, `md1:api-keys`: id -> JSON. The secret has 256 random bits, so a plain digest is enough:
there is nothing to guess that a slow hash would have to protect (unlike a password).
"""

import hashlib
import hmac
import json
import re
import secrets
from dataclasses import asdict, dataclass, replace

from memoryd.errors import KeyNotFound, StorageUnavailable
from memoryd.scopes import Scope
from memoryd.storage import scripts
from memoryd.storage.client import Client, Durability
from memoryd.storage.keys import API_KEYS

ID_BYTES, SECRET_BYTES = 8, 32
_FORM = re.compile(rf"md_([0-9a-f]{{{2 * ID_BYTES}}})_[0-9a-f]{{{2 * SECRET_BYTES}}}")


@dataclass(frozen=True)
class KeyRecord:
    """A key as it is stored. expires_ms: Unix time in ms after which it is no key; 0 is never."""

    id: str
    tenant: str
    scopes: tuple[Scope, ...]
    sha256: str
    created_ms: int
    expires_ms: int = 0

    def opens(self, key: str, now_ms: int) -> bool:
        """Whether `key`, as a caller sent it, is this key and works at `now_ms`."""
        alive = not self.expires_ms or now_ms < self.expires_ms
        return hmac.compare_digest(self.sha256, digest(key)) and alive


def digest(key: str) -> str:
    """The hex SHA-256 of a whole key."""
    return hashlib.sha256(key.encode()).hexdigest()


def key_id(key: str) -> str | None:
    """The public part of what has the form of a stored key, else None."""
    match = _FORM.fullmatch(key)
    return match[1] if match else None


class ApiKeyStore:
    """Keys in Redis. Every method may raise StorageUnavailable."""

    def __init__(
        self,
        url: str,
        *,
        durability: Durability,
        socket_timeout: float = 5.0,
        deadline: float = 15.0,
    ) -> None:
        self._client = Client(
            url, durability=durability, socket_timeout=socket_timeout, deadline=deadline
        )

    async def close(self) -> None:
        await self._client.close()

    async def create(
        self, tenant: str, scopes: tuple[Scope, ...], now_ms: int
    ) -> tuple[KeyRecord, str]:
        """A new key: its record, and the whole key, which is nowhere else."""
        identity = secrets.token_hex(ID_BYTES)
        key = f"md_{identity}_{secrets.token_hex(SECRET_BYTES)}"
        record = KeyRecord(identity, tenant, scopes, digest(key), now_ms)
        await self._put(record)
        return record, key

    async def get(self, identity: str) -> KeyRecord | None:
        """The key of that id as it stands in Redis, None where there is none."""
        stored = await self._client.command("HGET", API_KEYS, identity)
        return None if stored is None else _parse(identity, stored)

    async def keys(self, tenant: str = "") -> list[KeyRecord]:
        """All keys, or one tenant's, oldest first."""
        stored = await self._client.command("HGETALL", API_KEYS)
        records = [_parse(identity.decode(), value) for identity, value in stored.items()]
        wanted = [record for record in records if tenant in ("", record.tenant)]
        return sorted(wanted, key=lambda record: (record.created_ms, record.id))

    async def revoke(self, identity: str) -> None:
        """Takes a key out. Raises KeyNotFound."""
        known = await self.get(identity) is not None
        # One that is gone may have been taken out by a try that no replica confirmed.
        await self._write(identity, "")
        if not known:
            raise _unknown(identity)

    async def rotate(self, identity: str, grace_ms: int, now_ms: int) -> tuple[KeyRecord, str]:
        """A new key like `identity`, which itself works on for `grace_ms`. Raises KeyNotFound."""
        old = await self.get(identity)
        if old is None:
            raise _unknown(identity)
        # The new one first: broken off in between, both work and nobody is locked out.
        record, key = await self.create(old.tenant, old.scopes, now_ms)
        if grace_ms:
            ends = now_ms + grace_ms
            ends = min(ends, old.expires_ms) if old.expires_ms else ends
            await self._put(replace(old, expires_ms=ends))
        else:
            await self._write(identity, "")
        return record, key

    async def _put(self, record: KeyRecord) -> None:
        fields = asdict(record)
        identity = fields.pop("id")
        await self._write(identity, json.dumps(fields))

    async def _write(self, identity: str, value: str) -> None:
        """Stores a key, or with "" takes it out; as durable as what sessions are told."""
        await self._client.call(scripts.PUT_FIELDS, API_KEYS, identity, value)


def _parse(identity: str, stored: bytes) -> KeyRecord:
    try:
        fields = json.loads(stored)
        fields["scopes"] = tuple(Scope(scope) for scope in fields["scopes"])
        return KeyRecord(identity, **fields)
    except (ValueError, KeyError, TypeError) as error:
        raise StorageUnavailable(
            f"The record of API key {identity} cannot be read: revoke the key and make a new one.",
            key_id=identity,
        ) from error


def _unknown(identity: str) -> KeyNotFound:
    return KeyNotFound(
        f"There is no API key with the id {identity!r}: list the keys.", key_id=identity
    )
