"""The session protocol over Redis: one method an operation, one short script each.

The daemon that holds a session's lease is its only writer and keeps the authoritative copy in
memory; Redis refuses everybody else by comparing (generation, owner, epoch) for equality. Every
operation is idempotent, so an answer that got lost is asked for again by sending it once more.

Why the pieces look as they do:

- The journal is a stream whose entry ids are end offsets (`<offset>-0`, field `t`: token ids as
  little-endian uint32). XADD itself then refuses a wrong order, XRANGE from `(K+1)-0` gives what
  lies after K, and XTRIM MINID `(K+1)-0` drops what a checkpoint at K covers.
- The table of writers (writer id -> last sequence number and ack), the text tail and chat records
  are opaque here and change in the same script as the journal: the ack covers them all.
- An operation of a lease carries a number that counts up. The last one sent again is answered
  with its stored result; an older one is a ghost and refused.
"""

import array
import secrets
import sys
import time
from collections.abc import Mapping, Sequence

from memoryd.errors import (
    GenerationChanged,
    SessionExists,
    StateCorrupt,
    StorageFull,
)
from memoryd.storage import scripts
from memoryd.storage.answers import fence, not_found, pairs, refuse
from memoryd.storage.archives import ArchiveStore
from memoryd.storage.client import Client, Durability
from memoryd.storage.errors import CheckpointIncomplete, JournalGap, StaleCheckpoint
from memoryd.storage.keys import SessionKey, TenantKey, heartbeat_key
from memoryd.storage.records import (
    CHAT_PREFIX,
    META_FIELDS,
    BlobRef,
    Lease,
    MemoryInfo,
    SessionRecord,
    pack_labels,
    parse_record,
)
from memoryd.storage.server import check_replicas, check_server, warn_about_durability
from memoryd.storage.snapshots import SnapshotStore
from memoryd.storage.tenants import GONE, TenantStore
from memoryd.storage.topology import describe, is_cluster

JOURNAL_PAGE = 256
"""Entries read at once when a journal is replayed."""
SCAN_STEP = 1000
MEMORY_MAX_AGE = 1.0
"""Seconds for which the server's memory figures are believed."""


class Store:
    """Sessions in one Redis server, a cluster, or a primary that Sentinels watch over.

    url: redis://, rediss:// or unix://, or what topology.py says of clusters and Sentinels.
    durability: what an acknowledgement survives; under
    "replicated" every write waits for one replica on its own connection. socket_timeout: seconds
    for one try. deadline: seconds for one operation with all its tries.

    Every method may raise StorageUnavailable (no definite answer within the deadline: the
    operation may or may not have been applied) and UnsuitableServer (credentials).
    """

    def __init__(
        self,
        url: str,
        *,
        durability: Durability,
        socket_timeout: float = 5.0,
        deadline: float = 15.0,
    ) -> None:
        self.reserve_bytes = 0
        """Bytes below maxmemory that appends leave free: concurrent checkpoints x blob size."""
        self._client = Client(
            url, durability=durability, socket_timeout=socket_timeout, deadline=deadline
        )
        self._memory: dict[str, MemoryInfo] = {}  # by server
        self._memory_read_at = float("-inf")
        self.snapshots = SnapshotStore(self._client, self._refuse_when_full)
        self.tenants = TenantStore(self._client)
        self.archives = ArchiveStore(self._client)

    async def open(self) -> None:
        """Connect, refuse a server on which sessions are not safe, load the scripts.

        Raises UnsuitableServer (version, eviction policy, role) and StorageUnavailable.
        """
        primaries, replicas = await self._client.servers()
        for server in primaries:
            # Answered only when its data is loaded; what INFO says before that is not yet true.
            await self._client.ask(server, "PING")
            info = dict(await self._client.ask(server, "INFO", "everything"))
            check_server(info, describe(server), clustered=is_cluster(self._client.url))
            await warn_about_durability(self._client, server, info)
            for script in scripts.ALL:
                await self._client.ask(server, "SCRIPT LOAD", script.source)
        await check_replicas(self._client, replicas)

    async def close(self) -> None:
        await self._client.close()

    async def create(
        self,
        key: SessionKey,
        *,
        model: str,
        ttl_ms: int = 0,
        archive: bool = False,
        labels: Mapping[str, str] | None = None,
    ) -> SessionRecord:
        """Make an empty session without an owner. Raises SessionExists, StorageFull."""
        await self._refuse_when_full(key)
        await self.enlist(key)
        answer = await self._client.call(
            scripts.CREATE,
            key.meta,
            secrets.token_hex(8),
            model,
            ttl_ms,
            int(archive),
            pack_labels(labels or {}),
        )
        if answer[0] == b"EXISTS":
            raise SessionExists(
                f"Session {key} exists: use it as it is, or delete it first.", session=key.name
            )
        return parse_record(key, pairs(answer[1]))

    async def read(self, key: SessionKey) -> SessionRecord | None:
        """Return what is stored about a session, None if there is no such session."""
        meta = await self._client.command("HGETALL", key.meta)
        return parse_record(key, meta) if meta else None

    async def list_sessions(
        self, tenant: str, *, prefix: str = "", page_size: int = 100, page_token: str = ""
    ) -> tuple[list[SessionRecord], str]:
        """Return one page of a tenant's sessions by name, and the next page's token or "".

        What only an owner needs (text, writers, fields) is not read and left empty. Names whose
        session is gone are swept from the index on the way.
        """
        index = TenantKey(tenant).index
        low = f"({page_token}" if page_token else (f"[{prefix}" if prefix else "-")
        # No UTF-8 text holds the byte 0xff, so this is above every name with the prefix.
        high = b"(" + prefix.encode() + b"\xff"
        records: list[SessionRecord] = []
        while True:
            wanted = page_size - len(records)
            names = await self._client.command(
                "ZRANGE", index, low, high, "BYLEX", "LIMIT", 0, wanted
            )
            keys = [SessionKey(tenant, name.decode()) for name in names]
            metas = await self._client.commands([("HMGET", key.meta, *META_FIELDS) for key in keys])
            for key, values in zip(keys, metas, strict=True):
                meta = {
                    name.encode(): value
                    for name, value in zip(META_FIELDS, values, strict=True)
                    if value is not None
                }
                if meta:
                    records.append(parse_record(key, meta))
                else:
                    await self.tenants.account(key.tenant, {key.name: GONE})
            if len(names) < wanted:
                return records, ""
            if len(records) == page_size:
                return records, keys[-1].name
            low = f"({keys[-1].name}"

    async def acquire(
        self, key: SessionKey, *, expected_owner: str, expected_epoch: int, me: str
    ) -> SessionRecord | None:
        """Take a session over; None if another was faster.

        The caller has seen that expected_owner is "" or that its heartbeat is gone. The record
        returned is the one of the new lease. Raises SessionNotFound.
        """
        answer = await self._client.call(
            scripts.ACQUIRE, key.meta, expected_owner, expected_epoch, me
        )
        if answer[0] == b"TAKEN":
            return None
        if answer[0] != b"OK":
            refuse(key, answer)
        # A sweep may have raced with this session's creation; whatever is in use is listed.
        await self.enlist(key)
        return parse_record(key, pairs(answer[1]))

    async def append(
        self,
        lease: Lease,
        *,
        op_id: int,
        expected_next: int,
        tokens: Sequence[int],
        text: bytes,
        writers: bytes,
        fields: Mapping[str, bytes | None],
        expected_archived: int = 0,
        archive: bytes = b"",
    ) -> int:
        """Journal tokens and replace what stands beside them; returns the journal's new end.

        op_id: 1, 2, 3.. within one lease. After StorageUnavailable the same op_id and arguments
        are to be sent until they are answered. tokens: ids below 2**32, none if only the rest
        changes. fields: names that begin with `chat:`; None deletes one. archive: goes behind the
        first expected_archived bytes of the session's archive.

        Raises JournalGap, StorageFull, OwnershipLost, SessionNotFound; ValueError for an op_id
        that does not count up.
        """
        foreign = [name for name in fields if not name.startswith(CHAT_PREFIX)]
        if foreign:
            raise ValueError(f"fields must begin with {CHAT_PREFIX!r}: {foreign}")
        await self._refuse_when_full(lease.key)
        stored = [(name, value) for name, value in fields.items() if value is not None]
        answer = await self._client.call(
            scripts.APPEND,
            lease.key.meta,
            *fence(lease),
            op_id,
            expected_next,
            expected_next + len(tokens),
            pack_tokens(tokens),
            text,
            writers,
            expected_archived,
            archive,
            len(stored),
            *(part for pair in stored for part in pair),
            *(name for name, value in fields.items() if value is None),
        )
        if answer[0] == b"GAP":
            raise JournalGap(expected_next, int(answer[1]), int(answer[2]))
        if answer[0] == b"GHOST":
            raise ValueError(f"op_id {op_id} comes after op_id {int(answer[1])} of the same lease")
        if answer[0] != b"OK":
            refuse(lease.key, answer)
        return int(answer[1])

    async def check(self, lease: Lease) -> int:
        """Return the journal's end if the lease holds. Raises OwnershipLost, SessionNotFound."""
        answer = await self._client.call(scripts.CHECK, lease.key.meta, *fence(lease))
        if answer[0] != b"OK":
            refuse(lease.key, answer)
        return int(answer[1])

    async def read_journal(self, lease: Lease, after: int) -> list[tuple[int, bytes]]:
        """Return all entries that end after offset `after`: (end offset, token ids as uint32 LE).

        The first one may begin before `after`. Raises StateCorrupt if tokens between `after` and
        the journal's end are missing, OwnershipLost, SessionNotFound.
        """
        end = await self.check(lease)
        entries: list[tuple[int, bytes]] = []
        journal = lease.key.journal(lease.generation)
        low = f"{after + 1}-0"
        while True:
            page = await self._client.command("XRANGE", journal, low, "+", "COUNT", JOURNAL_PAGE)
            entries += [(int(name.split(b"-")[0]), fields[b"t"]) for name, fields in page]
            if len(page) < JOURNAL_PAGE:
                break
            low = f"({page[-1][0].decode()}"
        reached = after
        for entry_end, tokens in entries:
            begin = entry_end - len(tokens) // 4
            if begin > reached or (reached != after and begin != reached) or len(tokens) % 4:
                break
            reached = entry_end
        if reached < end:
            # Only an owner trims: if we are no longer it, that is the reason and not corruption.
            await self.check(lease)
            raise StateCorrupt(
                f"The journal of session {lease.key} lacks tokens after {reached} of {end}: "
                "restore a snapshot or create the session anew.",
                session=lease.key.name,
                reached=reached,
                end=end,
            )
        return entries

    async def commit(self, lease: Lease, ref: BlobRef) -> None:
        """Make a written blob the session's checkpoint and trim the journal that it covers.

        Raises CheckpointIncomplete, StaleCheckpoint, JournalGap (the checkpoint has read tokens
        that Redis no longer knows), OwnershipLost, SessionNotFound.
        """
        answer = await self._client.call(
            scripts.COMMIT,
            lease.key.meta,
            *fence(lease),
            ref.attempt,
            ref.offset,
            ref.nbytes,
            ref.parts,
            ref.digest,
            f"{ref.offset + 1}-0",
        )
        if answer[0] == b"STALE":
            raise StaleCheckpoint(ref.offset, int(answer[1]))
        if answer[0] == b"GAP":
            raise JournalGap(ref.offset, int(answer[1]))
        if answer[0] == b"INCOMPLETE":
            raise CheckpointIncomplete(ref.attempt, ref.parts)
        if answer[0] != b"OK":
            refuse(lease.key, answer)
        self._memory_read_at = float("-inf")

    async def update(
        self,
        record: SessionRecord,
        *,
        ttl_ms: int | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> SessionRecord | None:
        """Change what the session was created with; None leaves each as the record has it.

        ttl_ms: 0 lets it live until it is deleted. Gives None where the labels are no longer those
        of `record`: read it again. Raises OwnershipLost where its lease is not the session's,
        SessionNotFound.
        """
        answer = await self._client.call(
            scripts.UPDATE,
            record.key.meta,
            *fence(record.lease),
            record.ttl_ms if ttl_ms is None else ttl_ms,
            pack_labels(record.labels),
            pack_labels(record.labels if labels is None else labels),
        )
        if answer[0] == b"CHANGED":
            return None
        if answer[0] != b"OK":
            refuse(record.key, answer)
        return parse_record(record.key, pairs(answer[1]))

    async def touch(self, lease: Lease) -> None:
        """Put off the session's expiry. Raises OwnershipLost, SessionNotFound."""
        answer = await self._client.call(scripts.TOUCH, lease.key.meta, *fence(lease))
        if answer[0] != b"OK":
            refuse(lease.key, answer)

    async def release(self, lease: Lease) -> None:
        """Give the session up. Whoever finds it gone or taken no longer owns it either."""
        await self._client.call(scripts.RELEASE, lease.key.meta, *fence(lease))

    async def delete(
        self, key: SessionKey, *, generation: str | None = None, lease: Lease | None = None
    ) -> None:
        """Delete a session: of one generation, under one lease, or as it stands.

        Raises SessionNotFound, GenerationChanged, OwnershipLost (a lease that no longer holds).
        """
        if lease is not None:
            generation = lease.generation
        if generation is None:
            record = await self.read(key)
            if record is None:
                raise not_found(key)
            generation = record.generation
        owner, epoch = (lease.owner, lease.epoch) if lease else ("", "")
        answer = await self._client.call(
            scripts.DELETE, key.meta, generation, owner, epoch, mark_again=True
        )
        if answer[0] == b"REPLACED":
            raise GenerationChanged(
                f"Session {key} was deleted and made anew as generation {answer[1].decode()}: get "
                "its generation and start over.",
                session=key.name,
                expected=generation,
                found=answer[1].decode(),
            )
        if answer[0] != b"OK":
            refuse(key, answer)
        await self.tenants.account(key.tenant, {key.name: GONE})

    async def discard(self, key: SessionKey) -> int:
        """Delete all keys of a session by their names, whatever they hold; give their number.

        Meta goes first, as ever. Looks through all keys of the server that holds them.
        """
        server = await self._client.server_of(key.meta)
        deleted = int(await self._client.command("UNLINK", key.meta))
        cursor = 0
        while True:
            step, found = await self._client.ask(
                server, "SCAN", cursor, "MATCH", key.pattern, "COUNT", SCAN_STEP
            )
            if found:
                names = [name.decode() for name in found]
                deleted += int(await self._client.command("UNLINK", *names))
            cursor = int(step)
            if not cursor:
                break
        await self.tenants.account(key.tenant, {key.name: GONE})
        return deleted

    async def memory(self) -> MemoryInfo:
        """Return the sums of all primaries' memory figures, at most a second old."""
        primaries, _ = await self._client.servers()
        found = [await self._memory_of(server) for server in primaries]
        return MemoryInfo(sum(one.used for one in found), sum(one.maxmemory for one in found))

    async def _memory_of(self, server: str) -> MemoryInfo:
        if time.monotonic() - self._memory_read_at >= MEMORY_MAX_AGE:
            self._memory_read_at = time.monotonic()
            self._memory.clear()
        if server not in self._memory:
            info = await self._client.ask(server, "INFO", "memory")
            self._memory[server] = MemoryInfo(int(info["used_memory"]), int(info["maxmemory"]))
        return self._memory[server]

    async def heartbeat_alive(self, owner: str) -> str | None:
        """Return the address of the daemon `owner`, None if its heartbeat is gone."""
        address = await self._client.command("GET", heartbeat_key(owner))
        return None if address is None else bytes(address).decode()

    async def _refuse_when_full(self, key: SessionKey) -> None:
        """Keep a reserve: checkpoints must still fit, for only they let the journal be trimmed."""
        server = await self._client.server_of(key.meta)
        memory = await self._memory_of(server)
        if memory.maxmemory and memory.used > memory.maxmemory - self.reserve_bytes:
            raise StorageFull(
                f"Redis at {describe(server)} uses {memory.used} of {memory.maxmemory} bytes "
                f"and {self.reserve_bytes} are kept for checkpoints: free memory there or raise "
                "maxmemory, then retry.",
                retry_after=5.0,
                used=memory.used,
                maxmemory=memory.maxmemory,
                reserve=self.reserve_bytes,
            )

    async def enlist(self, key: SessionKey) -> None:
        """Put a session on its tenant's list, before it is made or again when it is used."""
        await self.tenants.enlist(key)


def pack_tokens(tokens: Sequence[int]) -> bytes:
    """Token ids as little-endian uint32. Raises OverflowError for an id beyond 32 bits."""
    packed = array.array("I", tokens)
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()
