"""One OpenTelemetry span for each call sent to a daemon, where the caller hands in a tracer.

The daemon's span becomes its child: the W3C header `traceparent` goes along as metadata
(https://www.w3.org/TR/trace-context/). Nothing of OpenTelemetry is imported without a tracer.
"""

from typing import TYPE_CHECKING

import grpc

from memoryd_client._flow import Rpc

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer

_SERVICES = {
    "session": "memoryd.v1.SessionService",
    "memory": "memoryd.v1.MemoryService",
    "admin": "memoryd.v1.AdminService",
    "health": "grpc.health.v1.Health",
}


class CallSpan:
    """A span around one call, or nothing. metadata: what tells the daemon of it."""

    def __init__(self, tracer: "Tracer | None" = None, rpc: Rpc | None = None) -> None:
        self.metadata: tuple[tuple[str, str], ...] = ()
        self._span: Span | None = None
        if tracer is None or rpc is None:
            return
        from opentelemetry.trace import SpanKind

        service = _SERVICES[rpc.service]
        self._span = tracer.start_span(
            f"{service}/{rpc.method}",
            kind=SpanKind.CLIENT,
            attributes={"rpc.system": "grpc", "rpc.service": service, "rpc.method": rpc.method},
        )
        context = self._span.get_span_context()
        parent = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
        self.metadata = (("traceparent", parent),)

    def end(self, error: grpc.RpcError | None = None) -> None:
        """The call is over. Idempotent."""
        if self._span is None:
            return
        if error is not None:
            from opentelemetry.trace import Status, StatusCode

            code: grpc.StatusCode = error.code()
            self._span.set_status(Status(StatusCode.ERROR, code.name))
        self._span.end()
        self._span = None
