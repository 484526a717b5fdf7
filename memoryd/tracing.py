"""One OpenTelemetry span a call, a child of the caller's (W3C Trace Context).

OpenTelemetry is an optional extra and imported only where tracing is set up. Spans carry the rpc,
the tenant, the request id and the result; never names of sessions or text.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Protocol

from memoryd.config import SettingsError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor

    from memoryd.rpc.arrival import Arrival

_OK = "OK"


class Tracing(Protocol):
    """What the services need of it."""

    def span(self, arrival: "Arrival") -> AbstractContextManager[None]:
        """A span around one call; its headers go along where the call is passed on."""
        ...


class NoTracing:
    """Spans that nobody collects. The caller's trace context is passed on as it came."""

    @contextmanager
    def span(self, arrival: "Arrival") -> Iterator[None]:
        for name in ("traceparent", "tracestate"):
            if name in arrival.metadata:
                arrival.headers[name] = arrival.metadata[name]
        yield


class OpenTelemetry:
    """Spans handed to `processor`. Raises SettingsError where the packages are missing."""

    def __init__(self, daemon_id: str, processor: "SpanProcessor") -> None:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider

        resource = Resource.create({"service.name": "memoryd", "service.instance.id": daemon_id})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("memoryd")

    @classmethod
    def exporting(cls, daemon_id: str, endpoint: str) -> "OpenTelemetry":
        """Sends spans to an OTLP collector, in the background. endpoint: http(s)://host:port."""
        try:
            from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ModuleNotFoundError as error:
            raise SettingsError(
                f"otlp_endpoint needs the package {error.name}, which is not installed: "
                "pip install 'memoryd[otel]', or leave otlp_endpoint out"
            ) from None
        return cls(daemon_id, BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))

    @contextmanager
    def span(self, arrival: "Arrival") -> Iterator[None]:
        from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        propagator = TraceContextTextMapPropagator()
        service, method = arrival.path.lstrip("/").split("/")
        span = self._tracer.start_span(
            f"{service}/{method}",
            context=propagator.extract(arrival.metadata),
            kind=SpanKind.SERVER,
            attributes={
                "rpc.system": "grpc",
                "rpc.service": service,
                "rpc.method": method,
                "memoryd.request_id": arrival.request_id,
            },
        )
        propagator.inject(arrival.headers, context=set_span_in_context(span))
        try:
            yield
        finally:
            span.set_attribute("memoryd.tenant", arrival.tenant)
            if arrival.outcome != _OK:
                span.set_attribute("memoryd.reason", arrival.outcome)
                span.set_status(Status(StatusCode.ERROR, arrival.outcome))
            span.end()

    def close(self) -> None:
        """Sends what is left."""
        self._provider.shutdown()
