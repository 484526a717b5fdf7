"""What callers hand in and get back: frozen values with no protobuf in sight."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum


class Role(StrEnum):
    """Who speaks in a piece of a stream."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    DOCUMENT = "document"
    RAW = "raw"


class Freshness(StrEnum):
    """What a query must have read before it answers.

    ACKED: all that was acknowledged when the call arrived.
    ABSORBED: what the model has read by now; no waiting.
    """

    ACKED = "acked"
    ABSORBED = "absorbed"


class FinishReason(StrEnum):
    """Why a reply ended."""

    UNKNOWN = "unknown"
    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class Offset:
    """A place in a session's stream: `tokens` tokens lie before it, in this generation."""

    generation: str
    tokens: int


@dataclass(frozen=True)
class Piece:
    """A part of a turn or document.

    content: text, or UTF-8 bytes in which a character may be cut between two open pieces.
    open: the next piece with the same role goes on where this one stops.
    """

    role: Role
    content: str | bytes
    open: bool = False


@dataclass(frozen=True)
class Turn:
    """One whole turn of a dialogue."""

    role: Role
    content: str | bytes


@dataclass(frozen=True)
class Document:
    """One whole text to be known."""

    content: str | bytes


@dataclass(frozen=True)
class Session:
    """A stream of text and the model's memory of it.

    tail_bytes: bytes accepted and not yet cut into tokens.
    state_bytes, checkpoint_tokens: size and offset of the newest checkpoint, 0 before the first.
    ttl: time to live after the last use; None lives until deleted.
    owner: address of the daemon that owns the session, empty where none does.
    """

    name: str
    generation: str
    model: str
    acked_tokens: int
    absorbed_tokens: int
    tail_bytes: int
    state_bytes: int
    checkpoint_tokens: int
    ttl: timedelta | None
    labels: Mapping[str, str]
    archive: bool
    archive_bytes: int
    create_time: datetime | None
    update_time: datetime | None
    owner: str

    @property
    def offset(self) -> Offset:
        """Where the acknowledged stream stands."""
        return Offset(self.generation, self.acked_tokens)


@dataclass(frozen=True)
class Snapshot:
    """A pinned memory of a session.

    offset: where in the stream it was taken. nbytes: what it keeps in Redis.
    """

    name: str
    offset: Offset
    nbytes: int
    create_time: datetime | None


@dataclass(frozen=True)
class Ack:
    """The journal holds everything up to message `seq`.

    acked_bytes: content bytes of this stream that are acknowledged, counted by the client.
    absorbed_tokens: tokens of the session that the model has read so far.
    """

    seq: int
    offset: Offset
    tail_bytes: int
    absorbed_tokens: int
    acked_bytes: int


@dataclass(frozen=True)
class AppendResult:
    """Where the stream stands after an append: pass `offset` to a query as `min_offset`.

    tail_bytes: bytes behind the offset that are durable and not yet cut into tokens.
    replayed: the message had been applied by an earlier attempt.
    """

    offset: Offset
    tail_bytes: int
    replayed: bool = False


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn; the defaults are greedy and the daemon's own length limit.

    temperature: 0 is greedy. top_k: 0 is no limit. top_p, repetition_penalty: 0 and 1 change
    nothing. seed: None lets the daemon draw one. stop: the reply ends before the first of these.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 0.0
    repetition_penalty: float = 0.0
    seed: int | None = None
    max_tokens: int = 0
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Progress:
    """How far the model has caught up with what a call must have read, in tokens."""

    absorbed_tokens: int
    target_tokens: int


@dataclass(frozen=True)
class Usage:
    """What a reply cost: tokens, and seconds of waiting, reading and writing."""

    prompt_tokens: int
    completion_tokens: int
    memory_tokens: int
    wait_seconds: float
    prefill_seconds: float
    decode_seconds: float


@dataclass(frozen=True)
class Completion:
    """The end of a reply.

    offset: where the stream stood. stale: Redis could not be asked, so that the answer may lack
    what another daemon has acknowledged. replayed: the reply was stored before.
    """

    finish_reason: FinishReason
    usage: Usage
    offset: Offset
    stale: bool
    seed: int
    replayed: bool


@dataclass(frozen=True)
class RetainedToken:
    """One token that a head has kept; `score` in (0, 1) ranks it."""

    position: int
    token_id: int
    text: str
    score: float
    sink: bool


@dataclass(frozen=True)
class RetainedHead:
    """What one KV head of one layer has kept, best scores first."""

    layer: int
    head: int
    kept: int
    budget: int
    tokens: tuple[RetainedToken, ...]


@dataclass(frozen=True)
class Inspection:
    """What every attention head has kept at an absorbed offset."""

    offset: Offset
    heads: tuple[RetainedHead, ...]
    state_checksum: str


@dataclass(frozen=True)
class Rebuilding:
    """How far a session is read again. Bytes of the archive; both are 0 without one."""

    read_tokens: int
    archive_bytes: int
    target_archive_bytes: int


class DifferenceKind(StrEnum):
    """What differs between a rebuilt memory and the one in use.

    UNREADABLE: the stored checkpoint or archive. TOKENS: what was said gives others than were
    acknowledged. TEXT: bytes behind the last token, or the open turn. STATE: the same tokens gave
    another one.
    """

    UNKNOWN = "unknown"
    UNREADABLE = "unreadable"
    TOKENS = "tokens"
    TEXT = "text"
    STATE = "state"


@dataclass(frozen=True)
class Difference:
    """tokens: all before this one was equal; of a state, where it stands."""

    kind: DifferenceKind
    tokens: int
    detail: str


@dataclass(frozen=True)
class Verification:
    """A session's memory beside one that was built from what is stored.

    offset: where the two states stand. from_tokens: the rebuilding began here; from_archive: it
    covers the whole stream. rebuilt_checksum: "" where the state was not reached.
    """

    offset: Offset
    from_tokens: int
    from_archive: bool
    state_checksum: str
    rebuilt_checksum: str
    difference: Difference | None

    @property
    def equal(self) -> bool:
        """Nothing differs."""
        return self.difference is None


@dataclass(frozen=True)
class ModelInfo:
    """The model that a daemon serves.

    layers: kind of each layer, bottom first. chunk: tokens absorbed at a time.
    state_bytes: bytes of a session's whole memory, at any length of its stream; token_bytes: what
    each token adds to them, 0 for models whose memory does not grow.
    max_prompt_tokens: tokens that framing, question and reply may have together.
    """

    model: str
    fingerprint: str
    numerics: str
    layers: tuple[str, ...]
    parameters: int
    vocab_size: int
    chunk: int
    state_bytes: int
    max_prompt_tokens: int
    notes: tuple[str, ...]
    token_bytes: int


@dataclass(frozen=True)
class Stats:
    """Figures of a daemon: tokens and checkpoints since its start, bytes and slots now.

    missing: names of figures that could not be read, and are 0.
    """

    version: str
    daemon_id: str
    start_time: datetime | None
    sessions: int
    slots_used: int
    slots_total: int
    lanes_used: int
    lanes_total: int
    tokens_appended: int
    tokens_absorbed: int
    tokens_generated: int
    backlog_tokens: int
    checkpoints: int
    resident_bytes: int
    redis_used_bytes: int
    storage: str
    durability: str
    draining: bool
    tasks: int
    missing: tuple[str, ...]


@dataclass(frozen=True)
class QuotaFigures:
    """Limits of a tenant, 0 for none; or what it uses of them.

    tokens_per_minute: read and written. concurrent_queries: replies of queries and chats.
    """

    sessions: int
    stored_bytes: int
    tokens_per_minute: int
    concurrent_queries: int


@dataclass(frozen=True)
class Quota:
    """What a tenant may have, over all daemons.

    own: names of the limits that are not the daemon's defaults. used: what it uses now; tokens and
    replies are 0 where there is no limit to them. None where it was not asked for.
    """

    limits: QuotaFigures
    own: tuple[str, ...]
    used: QuotaFigures | None = None


class Scope(StrEnum):
    """What an API key may do; none of them implies another."""

    READ = "read"
    WRITE = "write"
    ADMIN = "admin"


@dataclass(frozen=True)
class ApiKey:
    """A key as it can be shown. expire_time: None where it works until it is revoked."""

    id: str
    tenant: str
    scopes: tuple[str, ...]
    create_time: datetime | None
    expire_time: datetime | None


@dataclass(frozen=True)
class NewApiKey:
    """A key that was just made. secret: the whole key, shown this once."""

    key: ApiKey
    secret: str = field(repr=False)


@dataclass(frozen=True)
class Tls:
    """An encrypted channel. PEM bytes; the defaults trust the system's roots.

    private_key and certificate_chain identify this client where the daemon asks for it.
    """

    root_certificates: bytes | None = None
    private_key: bytes | None = field(default=None, repr=False)
    certificate_chain: bytes | None = None
