"""With a tracer each call is a span that the daemon hears of; without one nothing is imported."""

import subprocess
import sys

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from memoryd_client import SessionNotFound
from memoryd_proto.v1 import admin_pb2, memory_pb2, session_pb2

from .conftest import fail


@pytest.fixture
def spans():
    return InMemorySpanExporter()


@pytest.fixture
def tracer(spans):
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(spans))
    return provider.get_tracer("test")


def traceparent(span):
    context = span.context
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def test_a_call_is_a_span_whose_context_goes_along(server, connect, spans, tracer):
    server.on("GetModel", lambda *_: admin_pb2.GetModelResponse(model="m"))
    client = connect(server.target, tracer=tracer)
    with tracer.start_as_current_span("the caller's own") as own:
        client.get_model()
    span, _ = spans.get_finished_spans()
    assert (span.name, span.kind) == ("memoryd.v1.AdminService/GetModel", SpanKind.CLIENT)
    assert span.parent.span_id == own.get_span_context().span_id
    assert span.attributes["rpc.method"] == "GetModel"
    assert server.metadata[-1]["traceparent"] == traceparent(span)


def test_each_attempt_is_a_span_and_a_failed_one_says_so(server, connect, spans, tracer):
    server.on(
        "GetSession",
        lambda _, context: fail(context, "OWNERSHIP_LOST"),
        lambda _, context: fail(context, "SESSION_NOT_FOUND"),
    )
    client = connect(server.target, tracer=tracer)
    with pytest.raises(SessionNotFound):
        client.get_session("x")
    found = spans.get_finished_spans()
    assert [(span.status.status_code, span.status.description) for span in found] == [
        (StatusCode.ERROR, "UNAVAILABLE"),
        (StatusCode.ERROR, "NOT_FOUND"),
    ]


def test_a_stream_is_a_span_until_its_end(server, connect, spans, tracer):
    def answer(*_):
        yield memory_pb2.QueryResponse(delta=memory_pb2.TextDelta(text="one "))
        assert not spans.get_finished_spans()
        yield memory_pb2.QueryResponse(completion=memory_pb2.Completion(finish_reason=1))

    server.on("Query", answer)
    assert connect(server.target, tracer=tracer).query("x", "?").text() == "one "
    (span,) = spans.get_finished_spans()
    assert (span.name, span.status.status_code) == (
        "memoryd.v1.MemoryService/Query",
        StatusCode.UNSET,
    )
    assert server.metadata[-1]["traceparent"] == traceparent(span)


def test_a_stream_that_is_written_is_a_span_too(server, connect, spans, tracer):
    def acks(requests, _):
        for request in requests:
            yield memory_pb2.AppendStreamResponse(seq=request.seq)

    server.on("AppendStream", acks)
    connect(server.target, tracer=tracer).append_stream("x", "text")
    (span,) = spans.get_finished_spans()
    assert server.metadata[-1]["traceparent"] == traceparent(span)


def test_a_reply_that_is_left_ends_its_span(server, connect, spans, tracer):
    def answer(*_):
        yield memory_pb2.QueryResponse(delta=memory_pb2.TextDelta(text="one "))
        server.stopping.wait()

    server.on("Query", answer)
    reply = connect(server.target, tracer=tracer).query("x", "?")
    next(iter(reply))
    reply.close()
    assert len(spans.get_finished_spans()) == 1


def test_without_a_tracer_no_context_is_sent(server, connect):
    server.on("ListSessions", lambda *_: session_pb2.ListSessionsResponse())
    assert list(connect(server.target).list_sessions()) == []
    assert "traceparent" not in server.metadata[-1]


def test_without_a_tracer_nothing_of_opentelemetry_is_imported():
    code = (
        "import memoryd_client, sys\n"
        "at_once = memoryd_client.Retry(give_up_after=0)\n"
        "with memoryd_client.Client('127.0.0.1:1', retry=at_once) as client:\n"
        "    try: client.get_model()\n"
        "    except memoryd_client.Unreachable: pass\n"
        "print(sorted(name for name in sys.modules if name.startswith('opentelemetry')))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
