"""What a session's actor works with, put together once by the composition root."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from lalte.text import Tokenizer
from memoryd.engine.engine import Engine
from memoryd.engine.messages import Sampling
from memoryd.metrics import Metrics
from memoryd.quotas.quotas import Quotas
from memoryd.sessions.text import TextFramer
from memoryd.storage.blobs import BlobStore
from memoryd.storage.store import Store


@dataclass(frozen=True)
class Limits:
    """Bounds of one session, in tokens; see `memoryd.config.Settings`."""

    checkpoint_tokens: int
    backlog_soft_tokens: int
    backlog_hard_tokens: int
    max_prompt_tokens: int
    max_reply_tokens: int
    default_reply_tokens: int


def wall_clock_ms() -> int:
    return time.time_ns() // 1_000_000


@dataclass
class Counters:
    """What was done since the daemon started."""

    tokens_appended: int = 0
    checkpoints: int = 0


@dataclass(frozen=True)
class Services:
    """Shared by all sessions of a daemon.

    model_id: name and fingerprint of the model, as stored with each session.
    numerics: fingerprint of what else decides the bits of a state.
    daemon_id: this daemon as an owner, drawn at its start.
    address: what other daemons reach it at.
    shared: other daemons may use the same Redis; nobody else uses an embedded one.
    """

    store: Store
    blobs: BlobStore
    engine: Engine
    framer: TextFramer
    tokenizer: Tokenizer
    stop_ids: frozenset[int]
    model_id: str
    numerics: str
    daemon_id: str
    address: str
    shared: bool
    limits: Limits
    quotas: Quotas
    now_ms: Callable[[], int] = wall_clock_ms
    counters: Counters = field(default_factory=Counters)
    metrics: Metrics = field(default_factory=Metrics)


@dataclass(frozen=True)
class ReplyOptions:
    """How a reply is drawn and where it stops, already within the daemon's limits."""

    sampling: Sampling
    stop: tuple[str, ...] = ()
