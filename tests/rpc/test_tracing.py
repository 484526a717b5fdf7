"""The daemon's span of a call: a child of the caller's, without names of sessions or text."""

import subprocess
import sys

import pytest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from memoryd.config import SettingsError
from memoryd.rpc.arrival import Arrival
from memoryd.tracing import NoTracing, OpenTelemetry

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
HEADERS = {"traceparent": f"00-{TRACE}-{PARENT}-01", "authorization": "Bearer secret"}
PATH = "/memoryd.v1.MemoryService/Query"


@pytest.fixture
def spans():
    return InMemorySpanExporter()


@pytest.fixture
def tracing(spans):
    return OpenTelemetry("daemon-1", SimpleSpanProcessor(spans))


def arrival(metadata=HEADERS):
    return Arrival(PATH, metadata, "request-1")


def test_a_call_is_a_child_of_its_callers_span(tracing, spans):
    call = arrival()
    with tracing.span(call):
        call.tenant = "ada"
    (span,) = spans.get_finished_spans()
    assert (f"{span.context.trace_id:032x}", f"{span.parent.span_id:016x}") == (TRACE, PARENT)
    assert (span.name, span.kind) == ("memoryd.v1.MemoryService/Query", SpanKind.SERVER)
    assert span.status.status_code is StatusCode.UNSET
    assert dict(span.attributes) == {
        "rpc.system": "grpc",
        "rpc.service": "memoryd.v1.MemoryService",
        "rpc.method": "Query",
        "memoryd.request_id": "request-1",
        "memoryd.tenant": "ada",
    }
    assert span.resource.attributes["service.instance.id"] == "daemon-1"


def test_a_call_that_is_passed_on_is_a_child_of_the_daemons_span(tracing, spans):
    call = arrival()
    with tracing.span(call):
        pass
    (span,) = spans.get_finished_spans()
    assert call.headers == {"traceparent": f"00-{TRACE}-{span.context.span_id:016x}-01"}


def test_a_refused_call_says_why(tracing, spans):
    call = arrival({})

    def refused():
        with tracing.span(call):
            call.outcome = "SESSION_NOT_FOUND"
            raise RuntimeError

    with pytest.raises(RuntimeError):
        refused()
    (span,) = spans.get_finished_spans()
    assert span.parent is None
    assert span.attributes["memoryd.reason"] == "SESSION_NOT_FOUND"
    assert span.status.status_code is StatusCode.ERROR


def test_without_tracing_the_callers_context_is_passed_on_as_it_came():
    call = arrival()
    with NoTracing().span(call):
        pass
    assert call.headers == {"traceparent": HEADERS["traceparent"]}


def test_a_missing_package_is_named_at_the_start(monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.grpc.trace_exporter", None)
    with pytest.raises(SettingsError, match=r"pip install 'memoryd\[otel\]'"):
        OpenTelemetry.exporting("daemon-1", "http://127.0.0.1:4317")


def test_the_daemon_runs_where_opentelemetry_is_absent():
    # redis-py imports it too where it is there, so that its absence has to be made.
    code = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "import memoryd.app, memoryd.rpc.server\n"
        "from memoryd.rpc.arrival import Arrival\n"
        "from memoryd.tracing import NoTracing\n"
        "with NoTracing().span(Arrival('/a/b', {}, 'id')): print('served')"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "served"
