"""Figures for Prometheus, and the HTTP listener that it reads them from.

Counters and histograms are told what happens; gauges are read from the daemon when they are asked
for. Labels carry tenants, never session ids. Names follow Prometheus's conventions: base units,
`_total` on counters.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    start_http_server,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from memoryd.engine.messages import EngineStats

CALL_SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
CHECKPOINT_SECONDS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
CHECKPOINT_BYTES = tuple(float(1 << power) for power in range(14, 29, 2))


@dataclass(frozen=True)
class Snapshot:
    """The daemon at one moment.

    sessions, backlog: sessions in memory and tokens not yet absorbed, by tenant. replies: replies
    under way or waiting.
    """

    engine: EngineStats
    sessions: Mapping[str, int]
    backlog: Mapping[str, int]
    replies: int
    draining: bool


class Metrics:
    """One daemon's figures in a registry of their own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._calls = Counter(
            "memoryd_calls",
            "Calls that ended, by result: OK or the reason of the error.",
            ["rpc", "tenant", "result"],
            registry=registry,
        )
        self._call_seconds = Histogram(
            "memoryd_call_seconds",
            "From a call's arrival to its end.",
            ["rpc"],
            buckets=CALL_SECONDS,
            registry=registry,
        )
        self._first_text_seconds = Histogram(
            "memoryd_first_text_seconds",
            "From the arrival of a Query or Chat to the first text of its reply.",
            ["rpc"],
            buckets=CALL_SECONDS,
            registry=registry,
        )
        self._forwarded = Counter(
            "memoryd_forwarded_calls",
            "Calls passed on to the session's owner.",
            ["rpc"],
            registry=registry,
        )
        self._appended = Counter(
            "memoryd_appended_tokens", "Tokens acknowledged.", ["tenant"], registry=registry
        )
        self._absorbed = Counter(
            "memoryd_absorbed_tokens", "Tokens absorbed.", ["tenant"], registry=registry
        )
        self._replied = Counter(
            "memoryd_reply_tokens", "Tokens sent in replies.", ["tenant"], registry=registry
        )
        self._checkpoint_seconds = Histogram(
            "memoryd_checkpoint_seconds",
            "From the capture of a state to the commit of its checkpoint.",
            buckets=CHECKPOINT_SECONDS,
            registry=registry,
        )
        self._checkpoint_bytes = Histogram(
            "memoryd_checkpoint_bytes",
            "Size of a committed checkpoint.",
            buckets=CHECKPOINT_BYTES,
            registry=registry,
        )
        self._delayed_checkpoints = Counter(
            "memoryd_delayed_checkpoints",
            "Checkpoints that Redis did not take and that are tried again.",
            registry=registry,
        )
        self._rebuilds = Counter(
            "memoryd_rebuilds",
            "Sessions that were read again. verify: equal, or what differs; migrate: done.",
            ["work", "result"],
            registry=registry,
        )
        self._leases = Counter(
            "memoryd_lease_events",
            "acquired: of a session without an owner; taken_over: of one whose owner was gone; "
            "released: given back; lost: taken by another daemon.",
            ["event"],
            registry=registry,
        )

        self._refusals = Counter(
            "memoryd_quota_refusals",
            "Calls that were refused because their tenant had used up a limit.",
            ["tenant", "quota"],
            registry=registry,
        )
        self._stored_sessions = Gauge(
            "memoryd_stored_sessions",
            "Sessions in Redis, where they are counted for a limit; as this daemon saw them last.",
            ["tenant"],
            registry=registry,
        )
        self._stored_bytes = Gauge(
            "memoryd_stored_bytes",
            "Bytes that sessions keep in Redis, where they are counted for a limit; as this daemon "
            "saw them last.",
            ["tenant"],
            registry=registry,
        )

    def call_ended(self, rpc: str, tenant: str, result: str, seconds: float) -> None:
        self._calls.labels(rpc, tenant, result).inc()
        self._call_seconds.labels(rpc).observe(seconds)

    def first_text(self, rpc: str, seconds: float) -> None:
        self._first_text_seconds.labels(rpc).observe(seconds)

    def forwarded(self, rpc: str) -> None:
        self._forwarded.labels(rpc).inc()

    def appended(self, tenant: str, tokens: int) -> None:
        self._appended.labels(tenant).inc(tokens)

    def absorbed(self, tenant: str, tokens: int) -> None:
        self._absorbed.labels(tenant).inc(tokens)

    def replied(self, tenant: str, tokens: int) -> None:
        self._replied.labels(tenant).inc(tokens)

    def checkpointed(self, seconds: float, nbytes: int) -> None:
        self._checkpoint_seconds.observe(seconds)
        self._checkpoint_bytes.observe(nbytes)

    def checkpoint_delayed(self) -> None:
        self._delayed_checkpoints.inc()

    def rebuilt(self, work: str, result: str) -> None:
        self._rebuilds.labels(work, result).inc()

    def lease(self, event: str) -> None:
        """event: acquired, taken_over, released or lost."""
        self._leases.labels(event).inc()

    def quota_refused(self, tenant: str, quota: str) -> None:
        """quota: the name of the limit, see `memoryd.storage.tenants.Quota`."""
        self._refusals.labels(tenant, quota).inc()

    def stored(self, tenant: str, sessions: int, nbytes: int) -> None:
        """What a tenant keeps, counted anew."""
        self._stored_sessions.labels(tenant).set(sessions)
        self._stored_bytes.labels(tenant).set(nbytes)

    def watch(self, read: Callable[[], Snapshot]) -> None:
        """Takes the gauges from `read`, which is called in the listener's thread."""
        self.registry.register(_Gauges(read))


class _Gauges(Collector):
    def __init__(self, read: Callable[[], Snapshot]) -> None:
        self._read = read

    def collect(self) -> Iterator[Metric]:
        now = self._read()
        engine = now.engine
        for name, help_text, value in (
            ("slots", "Slots of session state in memory.", engine.slots_total),
            ("slots_used", "Slots in use.", engine.slots_used),
            ("lanes", "Lanes for replies.", engine.lanes_total),
            ("lanes_used", "Lanes in use: replies decoded together.", engine.lanes_used),
            ("waiting_replies", "Replies that wait for a lane.", engine.waiting),
            ("replies", "Replies admitted and not at their end.", now.replies),
            ("draining", "1 while the daemon takes no new calls.", int(now.draining)),
        ):
            yield GaugeMetricFamily(f"memoryd_{name}", help_text, value)
        for name, help_text, by_tenant in (
            ("sessions", "Sessions in memory.", now.sessions),
            ("backlog_tokens", "Tokens acknowledged and not yet absorbed.", now.backlog),
        ):
            family = GaugeMetricFamily(f"memoryd_{name}", help_text, labels=["tenant"])
            for tenant, value in by_tenant.items():
                family.add_metric([tenant], value)
            yield family
        for name, help_text, value in (
            ("engine_absorbed_tokens", "Tokens absorbed.", engine.absorbed_tokens),
            ("engine_absorb_steps", "Steps that absorbed them.", engine.absorb_steps),
            ("engine_generated_tokens", "Tokens drawn for replies.", engine.generated_tokens),
            ("engine_decode_steps", "Steps that drew them, batched.", engine.decode_steps),
        ):
            yield CounterMetricFamily(f"memoryd_{name}", help_text, value)


@contextmanager
def listening(metrics: Metrics, listen: str) -> Iterator[int]:
    """Serves the figures over HTTP at `listen`, host:port; gives the port. Raises OSError."""
    host, _, port = listen.rpartition(":")
    server, thread = start_http_server(int(port), host.strip("[]"), metrics.registry)
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        if isinstance(thread, threading.Thread):
            thread.join()
