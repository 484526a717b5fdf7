"""Requests say what was asked, responses arrive as values, only idempotent calls retry."""

from datetime import UTC, datetime, timedelta

import grpc
import pytest

import memoryd_client
from memoryd_client import Document, Offset, Piece, Role, Session, Turn
from memoryd_proto.v1 import admin_pb2, memory_pb2, session_pb2, types_pb2

from .conftest import QUICK, fail


def unavailable(_request, context):
    fail(context, "STORAGE_UNAVAILABLE")


def broken(_request, context):
    context.abort(grpc.StatusCode.UNAVAILABLE, "gone")


def session_message(name="a"):
    message = types_pb2.Session(
        name=name,
        generation="g1",
        model="m",
        acked_tokens=9,
        absorbed_tokens=8,
        tail_bytes=3,
        state_bytes=100,
        checkpoint_tokens=8,
        labels={"k": "v"},
        archive=True,
        archive_bytes=7,
        owner="here:1",
    )
    message.ttl.FromTimedelta(timedelta(hours=1))
    message.create_time.FromDatetime(datetime(2026, 1, 2, tzinfo=UTC))
    return message


def test_create_sends_every_option_and_returns_the_session(server, connect):
    server.on(
        "CreateSession",
        lambda request, context: session_pb2.CreateSessionResponse(session=session_message()),
    )
    session = connect(server.target, api_key="key-1").create_session(
        "a", model="m", ttl=timedelta(hours=1), labels={"k": "v"}, archive=True
    )
    (request,) = server.requests["CreateSession"]
    assert (request.name, request.model, request.archive) == ("a", "m", True)
    assert request.ttl.seconds == 3600
    assert dict(request.labels) == {"k": "v"}
    assert server.metadata[0]["authorization"] == "Bearer key-1"
    assert session == Session(
        name="a",
        generation="g1",
        model="m",
        acked_tokens=9,
        absorbed_tokens=8,
        tail_bytes=3,
        state_bytes=100,
        checkpoint_tokens=8,
        ttl=timedelta(hours=1),
        labels={"k": "v"},
        archive=True,
        archive_bytes=7,
        create_time=datetime(2026, 1, 2, tzinfo=UTC),
        update_time=None,
        owner="here:1",
    )
    assert session.offset == Offset("g1", 9)


def test_create_is_not_sent_twice(server, connect):
    server.on("CreateSession", broken)
    with pytest.raises(memoryd_client.Unreachable):
        connect(server.target).create_session("a")
    assert len(server.requests["CreateSession"]) == 1


def test_create_with_exist_ok_is_retried_and_takes_the_session_that_is_there(server, connect):
    server.on("CreateSession", broken, lambda request, context: fail(context, "SESSION_EXISTS"))
    server.on(
        "GetSession",
        lambda request, context: session_pb2.GetSessionResponse(session=session_message()),
    )
    assert connect(server.target).create_session("a", exist_ok=True).generation == "g1"
    assert len(server.requests["CreateSession"]) == 2


def test_exist_ok_without_a_name_is_refused(server, connect):
    with pytest.raises(memoryd_client.BadArgument, match="name"):
        connect(server.target).create_session(exist_ok=True)


def test_list_walks_all_pages_and_retries_one(server, connect):
    def page(names, token):
        return lambda request, context: session_pb2.ListSessionsResponse(
            sessions=[session_message(name) for name in names], next_page_token=token
        )

    server.on("ListSessions", page("ab", "t1"), unavailable, page("", "t2"), page("c", ""))
    found = connect(server.target).list_sessions(prefix="p", labels={"k": "v"}, page_size=2)
    assert [session.name for session in found] == ["a", "b", "c"]
    tokens = [request.page_token for request in server.requests["ListSessions"]]
    assert tokens == ["", "t1", "t1", "t2"]
    assert server.requests["ListSessions"][0].prefix == "p"


def test_reads_are_retried_until_they_succeed(server, connect):
    server.on("GetModel", unavailable, broken, lambda r, c: admin_pb2.GetModelResponse(chunk=8))
    server.on("GetStats", unavailable, lambda r, c: admin_pb2.GetStatsResponse(sessions=3))
    server.on(
        "InspectSession",
        unavailable,
        lambda r, c: session_pb2.InspectSessionResponse(
            offset=types_pb2.Offset(generation="g", tokens=5),
            heads=[
                session_pb2.RetainedHead(
                    layer=1,
                    head=2,
                    kept=1,
                    budget=4,
                    tokens=[session_pb2.RetainedToken(position=3, text="x", score=0.5)],
                )
            ],
            state_checksum="c",
        ),
    )
    client = connect(server.target)
    assert client.get_model().chunk == 8
    assert client.get_stats().sessions == 3
    seen = client.inspect("a", layers=[1], limit=7)
    assert seen.heads[0].tokens[0].position == 3
    assert (seen.offset, seen.state_checksum) == (Offset("g", 5), "c")
    request = server.requests["InspectSession"][-1]
    assert (list(request.layers), request.limit) == ([1], 7)


def test_a_refusal_is_not_retried(server, connect):
    server.on("GetSession", lambda request, context: fail(context, "SESSION_NOT_FOUND"))
    with pytest.raises(memoryd_client.SessionNotFound):
        connect(server.target).get_session("a")
    assert len(server.requests["GetSession"]) == 1


def test_retries_end_when_the_next_would_miss_the_deadline(server, connect):
    server.on("GetStats", lambda request, context: fail(context, "SLOTS_BUSY", retry_after=3600))
    with pytest.raises(memoryd_client.SlotsBusy):
        connect(server.target, timeout=60.0).get_stats()
    assert len(server.requests["GetStats"]) == 1


def test_retries_end_after_give_up_after(server, connect):
    server.on("GetStats", unavailable)
    retry = memoryd_client.Retry(first=0.001, longest=0.001, give_up_after=0.05)
    with pytest.raises(memoryd_client.StorageUnavailable):
        connect(server.target, retry=retry).get_stats()
    assert len(server.requests["GetStats"]) > 1


@pytest.mark.parametrize("attempt", [1, 2, 3, 10, 2000])
def test_pauses_grow_and_honour_the_daemons_delay(attempt):
    from memoryd_client._retry import Attempts

    retry = memoryd_client.Retry(first=1.0, longest=4.0, give_up_after=1e9)
    plain, told = Attempts(retry, None), Attempts(retry, None)
    error = memoryd_client.StorageUnavailable("")
    asked = memoryd_client.BacklogFull("", retry_after=7.0)
    for _ in range(attempt):
        pause, longer = plain.pause_after(error), told.pause_after(asked)
    bound = [1.0, 2.0, 4.0][min(attempt, 3) - 1]
    assert bound / 2 <= pause <= bound
    assert 7.0 <= longer <= 7.0 + bound


def test_append_is_resent_under_the_same_number(server, connect):
    def appended(request, context):
        return memory_pb2.AppendResponse(
            offset=types_pb2.Offset(generation="g", tokens=4), tail_bytes=2, replayed=True
        )

    server.on("Append", broken, unavailable, appended)
    result = connect(server.target).append(
        "a",
        [Turn(Role.USER, "hi"), Document("text"), Piece(Role.RAW, b"\xc3", open=True)],
        expected_offset=Offset("g", 1),
    )
    assert result == memoryd_client.AppendResult(Offset("g", 4), 2, replayed=True)
    numbers = {(request.writer_id, request.seq) for request in server.requests["Append"]}
    assert len(numbers) == 1
    ((writer_id, seq),) = numbers
    assert writer_id
    assert seq == 1
    request = server.requests["Append"][-1]
    assert [(p.role, p.content, p.open) for p in request.pieces] == [
        (types_pb2.ROLE_USER, b"hi", False),
        (types_pb2.ROLE_DOCUMENT, b"text", False),
        (types_pb2.ROLE_RAW, b"\xc3", True),
    ]
    assert (request.expected_offset.generation, request.expected_offset.tokens) == ("g", 1)


def test_a_writer_counts_and_starts_anew_after_a_failure(server, connect):
    def appended(request, context):
        return memory_pb2.AppendResponse()

    def refused(request, context):
        fail(context, "INVALID_UTF8")

    server.on("Append", appended, appended, refused, appended)
    writer = connect(server.target).writer("a")
    writer.append("1")
    writer.append("2")
    with pytest.raises(memoryd_client.InvalidUtf8):
        writer.append(b"\xff")
    writer.append("4")
    first, second, third, fourth = server.requests["Append"]
    assert [r.seq for r in (first, second, third, fourth)] == [1, 2, 3, 1]
    assert first.writer_id == second.writer_id == third.writer_id != fourth.writer_id


def test_unknown_content_is_refused(server, connect):
    with pytest.raises(memoryd_client.BadArgument, match="int"):
        connect(server.target).append("a", [7])


def test_delete_is_retried_only_with_its_generation(server, connect):
    server.on("DeleteSession", broken, lambda request, context: fail(context, "SESSION_NOT_FOUND"))
    client = connect(server.target)
    client.delete_session("a", generation="g1")  # the broken attempt had deleted it
    assert [r.generation for r in server.requests["DeleteSession"]] == ["g1", "g1"]
    with pytest.raises(memoryd_client.SessionNotFound):
        client.delete_session("a", generation="g1")
    server.on("DeleteSession", broken)
    with pytest.raises(memoryd_client.Unreachable):
        client.delete_session("a")


def test_drain_is_sent_once(server, connect):
    server.on("Drain", lambda request, context: admin_pb2.DrainResponse(sessions_released=2))
    client = connect(server.target)
    assert client.drain() == 2
    server.on("Drain", broken)
    with pytest.raises(memoryd_client.Unreachable):
        client.drain()
    assert len(server.requests["Drain"]) == 2


def test_is_serving_asks_the_standard_health_service(connect):
    from concurrent.futures import ThreadPoolExecutor

    from grpc_health.v1 import health, health_pb2, health_pb2_grpc

    servicer = health.HealthServicer()
    real = grpc.server(ThreadPoolExecutor(1))
    health_pb2_grpc.add_HealthServicer_to_server(servicer, real)
    port = real.add_insecure_port("127.0.0.1:0")
    real.start()
    client = connect(f"127.0.0.1:{port}")
    assert client.is_serving()
    servicer.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    assert not client.is_serving()
    real.stop(None).wait()


def test_a_client_outlives_its_daemon(server, connect):
    server.on("GetStats", lambda request, context: admin_pb2.GetStatsResponse())
    client = connect(server.target, retry=QUICK)
    client.get_stats()
    server.stop()
    with pytest.raises(memoryd_client.Unreachable):
        connect(server.target, retry=memoryd_client.Retry(give_up_after=0)).get_stats()
