"""Quotas, discarding and the end of a chat, from the caller's side."""

import itertools

import pytest

from memoryd_client import (
    Quota,
    QuotaExceeded,
    QuotaFigures,
    Retry,
    SessionNotFound,
    StorageUnavailable,
)
from memoryd_proto.v1 import admin_pb2, memory_pb2, session_pb2, types_pb2

from .conftest import fail

MESSAGE = admin_pb2.Quota(sessions=5, stored_bytes=1 << 40, concurrent_queries=2)
FIGURES = QuotaFigures(5, 1 << 40, 0, 2)


def test_limits_and_usage_are_read(server, connect):
    answer = admin_pb2.GetQuotaResponse(
        limits=MESSAGE, own=["sessions"], used=admin_pb2.Quota(sessions=3)
    )
    server.on("GetQuota", lambda request, context: answer)
    found = connect(server.target).get_quota("ada")
    assert found == Quota(FIGURES, ("sessions",), QuotaFigures(3, 0, 0, 0))
    assert [request.tenant for request in server.requests["GetQuota"]] == ["ada"]


def test_only_named_limits_are_sent_and_zero_is_one(server, connect):
    server.on("SetQuota", lambda request, context: admin_pb2.SetQuotaResponse(limits=MESSAGE))
    changed = connect(server.target).set_quota(
        "ada", sessions=0, tokens_per_minute=9, defaults=["stored_bytes"]
    )
    assert changed == Quota(FIGURES, ())
    (request,) = server.requests["SetQuota"]
    assert request.HasField("sessions")
    assert request.sessions == 0
    assert request.tokens_per_minute == 9
    assert not request.HasField("stored_bytes")
    assert not request.HasField("concurrent_queries")
    assert list(request.defaults) == ["stored_bytes"]


def test_a_quota_is_waited_for_only_where_waiting_helps(server, connect):
    def full(request, context):
        fail(context, "QUOTA_EXCEEDED", quota="sessions", limit="3", used="3")

    def busy(request, context):
        fail(context, "QUOTA_EXCEEDED", retry_after=0.001, quota="tokens_per_minute")

    session = session_pb2.GetSessionResponse(session=types_pb2.Session(name="s"))
    server.on("GetSession", full)
    client = connect(server.target)
    with pytest.raises(QuotaExceeded) as refused:
        client.get_session("s")
    assert refused.value.facts == {"quota": "sessions", "limit": "3", "used": "3"}
    assert len(server.requests["GetSession"]) == 1
    server.on("GetSession", busy, busy, lambda request, context: session)
    assert client.get_session("s").name == "s"
    assert len(server.requests["GetSession"]) == 4


def test_discarding_is_retried_and_may_find_its_work_done(server, connect):
    def away(request, context):
        fail(context, "STORAGE_UNAVAILABLE")

    def gone(request, context):
        fail(context, "SESSION_NOT_FOUND")

    done = admin_pb2.DiscardSessionResponse(keys_deleted=4)
    server.on("DiscardSession", away, lambda request, context: done)
    client = connect(server.target)
    assert client.discard_session("ada", "s") == 4
    server.on("DiscardSession", away, gone)
    assert client.discard_session("ada", "s") == 0
    server.on("DiscardSession", gone)
    with pytest.raises(SessionNotFound):
        client.discard_session("ada", "s")


def endless(request, context):
    for _ in itertools.takewhile(lambda _: context.is_active(), itertools.count()):
        yield memory_pb2.ChatResponse(delta=memory_pb2.TextDelta(text="x", token_ids=[1]))


def cancelled(server) -> list[tuple[str, str]]:
    return [(request.session, request.request_id) for request in server.requests["CancelChat"]]


def test_closing_a_chat_ends_its_turn(server, connect):
    server.on("Chat", endless)
    server.on("CancelChat", lambda request, context: memory_pb2.CancelChatResponse())
    client = connect(server.target)
    reply = client.chat("s", "hi", request_id="r")
    reply.close()
    assert cancelled(server) == []  # nothing was sent yet
    reply = client.chat("s", "hi", request_id="r")
    next(iter(reply))
    for _ in range(2):
        reply.close()
    assert cancelled(server) == [("s", "r")]
    client.cancel_chat("s", "other")
    assert cancelled(server)[1:] == [("s", "other")]


def test_a_chat_that_ended_or_broke_is_not_cancelled(server, connect):
    """What broke can be taken up again with its request id."""

    def whole(request, context):
        yield memory_pb2.ChatResponse(completion=memory_pb2.Completion())

    def breaking(request, context):
        yield memory_pb2.ChatResponse(delta=memory_pb2.TextDelta(text="x", token_ids=[1]))
        fail(context, "STORAGE_UNAVAILABLE")

    server.on("CancelChat", lambda request, context: memory_pb2.CancelChatResponse())
    client = connect(server.target, retry=Retry(give_up_after=0.0))
    server.on("Chat", whole)
    reply = client.chat("s", "hi")
    reply.text()
    reply.close()
    server.on("Chat", breaking)
    reply = client.chat("s", "hi")
    with pytest.raises(StorageUnavailable):
        reply.text()
    reply.close()
    assert cancelled(server) == []


def test_a_chat_is_left_even_if_its_end_cannot_be_told(server, connect):
    server.on("Chat", endless)
    server.on("CancelChat", lambda request, context: fail(context, "STORAGE_UNAVAILABLE"))
    reply = connect(server.target).chat("s", "hi", request_id="r")
    next(iter(reply))
    reply.close()
    assert cancelled(server) == [("s", "r")]
