"""A failed call becomes the exception that its reason names, with its facts."""

import socket

import grpc
import pytest

import memoryd_client
from memoryd_client import _errors
from memoryd_proto.errors import ERRORS, Reason

from .conftest import fail


def test_every_reason_has_exactly_one_class():
    assert set(_errors.BY_REASON) == {reason.value for reason in Reason}
    assert len(_errors._Reasoned.__subclasses__()) == len(Reason)
    for cls in _errors.BY_REASON.values():
        assert getattr(memoryd_client, cls.__name__) is cls


@pytest.mark.parametrize("reason", list(Reason))
def test_a_reason_arrives_as_its_class_with_facts_and_delay(server, connect, reason):
    def handler(_request, context):
        fail(context, reason, message="what happened", retry_after=0.25, offset="7")

    server.on("CreateSession", handler)
    client = connect(server.target)
    with pytest.raises(memoryd_client.MemorydError, match="what happened") as caught:
        client.create_session("a")
    error = caught.value
    assert type(error) is _errors.BY_REASON[reason]
    assert error.reason == reason
    assert error.code is ERRORS[reason].code
    assert error.retryable is ERRORS[reason].retry
    assert error.facts == {"offset": "7"}
    assert error.retry_after == 0.25


def test_a_reason_of_a_newer_daemon_is_the_base_class(server, connect):
    def handler(_request, context):
        fail(context, "NOT_INVENTED_YET", code=grpc.StatusCode.ABORTED, hint="x")

    server.on("GetSession", handler)
    with pytest.raises(memoryd_client.MemorydError) as caught:
        connect(server.target).get_session("a")
    assert type(caught.value) is memoryd_client.MemorydError
    assert (caught.value.reason, caught.value.code) == (
        "NOT_INVENTED_YET",
        grpc.StatusCode.ABORTED,
    )
    assert caught.value.facts == {"hint": "x"}


def test_another_domain_is_not_taken_for_ours(server, connect):
    def handler(_request, context):
        fail(context, "SESSION_NOT_FOUND", domain="example.com")

    server.on("GetSession", handler)
    with pytest.raises(memoryd_client.ProtocolError, match="NOT_FOUND"):
        connect(server.target).get_session("a")


def test_nobody_listening_is_unreachable_and_says_how_to_start_a_daemon(connect):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        target = f"127.0.0.1:{free.getsockname()[1]}"
    client = connect(target, retry=memoryd_client.Retry(give_up_after=0))
    with pytest.raises(memoryd_client.Unreachable, match="memoryd serve"):
        client.get_stats()


def test_a_call_that_the_server_reset_is_tried_again(server, connect):
    seen = []

    def handler(_request, context):
        seen.append(1)
        if len(seen) == 1:
            context.abort(grpc.StatusCode.CANCELLED, "CANCELLED")
        fail(context, "SESSION_NOT_FOUND")

    server.on("GetSession", handler)
    with pytest.raises(memoryd_client.SessionNotFound):
        connect(server.target).get_session("a")
    assert len(seen) == 2


def test_a_late_answer_is_deadline_exceeded(server, connect):
    def handler(_request, context):
        while context.is_active():
            context.time_remaining()
        return

    server.on("GetModel", handler)
    with pytest.raises(memoryd_client.DeadlineExceeded):
        connect(server.target, timeout=0.2).get_model()


def test_the_transports_size_limit_is_message_too_large(server, connect):
    server.on("Append", lambda request, context: None)
    with pytest.raises(memoryd_client.MessageTooLarge, match="smaller pieces"):
        connect(server.target).append("a", "x" * (5 << 20))


def test_garbage_details_are_a_protocol_error(server, connect):
    def handler(_request, context):
        context.set_trailing_metadata((("grpc-status-details-bin", b"\xff\xff"),))
        context.abort(grpc.StatusCode.PERMISSION_DENIED, "no")

    server.on("GetStats", handler)
    with pytest.raises(memoryd_client.ProtocolError):
        connect(server.target).get_stats()


def test_a_lone_surrogate_is_refused_before_it_is_sent(server, connect):
    with pytest.raises(memoryd_client.BadArgument, match="surrogate"):
        connect(server.target).append("a", "\ud800")


def test_a_server_that_is_no_memoryd_is_a_protocol_error(connect):
    from concurrent.futures import ThreadPoolExecutor

    other = grpc.server(ThreadPoolExecutor(1))
    port = other.add_insecure_port("127.0.0.1:0")
    other.start()
    with pytest.raises(memoryd_client.ProtocolError, match="UNIMPLEMENTED"):
        connect(f"127.0.0.1:{port}").get_stats()
    other.stop(None).wait()
