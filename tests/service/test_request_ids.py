"""Every answer names its request, and an internal error can be found in the log by it."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import grpc
import pytest

from harness.calls import Calls
from harness.daemons import Cluster, DaemonProcess
from memoryd_proto.v1 import memory_pb2, session_pb2, types_pb2


@pytest.fixture
def calls(daemon: DaemonProcess) -> Iterator[Calls]:
    with Calls(daemon.address) as calls:
        yield calls


def request_ids(call: Any) -> list[str]:
    return [value for name, value in call.trailing_metadata() if name == "x-request-id"]


def unary(method: Any, request: Any, **metadata: str) -> list[str]:
    try:
        _, call = method.with_call(request, metadata=tuple(metadata.items()), timeout=60)
    except grpc.RpcError as error:
        call = error
    return request_ids(call)


def streamed(method: Any, request: Any, **metadata: str) -> list[str]:
    call = method(request, metadata=tuple(metadata.items()), timeout=60)
    with suppress(grpc.RpcError):
        list(call)
    return request_ids(call)


def test_the_callers_id_comes_back_with_answers_and_refusals(calls, name):
    sent = {"x-request-id": "mine 7"}
    create = session_pb2.CreateSessionRequest(name=name)
    assert unary(calls.sessions.CreateSession, create, **sent) == ["mine 7"]
    assert unary(calls.sessions.CreateSession, create, **sent) == ["mine 7"]  # exists by now
    query = memory_pb2.QueryRequest(
        session=name, question=b"?", sampling=types_pb2.Sampling(max_tokens=1)
    )
    assert streamed(calls.memory.Query, query, **sent) == ["mine 7"]
    nothing = memory_pb2.QueryRequest(session="nothing", question=b"?")
    assert streamed(calls.memory.Query, nothing, **sent) == ["mine 7"]


def test_one_is_drawn_where_the_caller_sent_none_that_can_be_used(calls):
    method, request = calls.sessions.ListSessions, session_pb2.ListSessionsRequest()
    drawn = unary(method, request) + unary(method, request, **{"x-request-id": "x" * 129})
    assert len(set(drawn)) == 2
    assert all(len(one) == 32 for one in drawn)


def test_a_call_that_is_passed_on_has_one_id(pair: Cluster, name: str) -> None:
    pair.on_a.create_session(name)
    pair.on_a.inspect(name)  # a owns it now
    sent = {"x-request-id": "mine 8"}
    with Calls(pair.b.address) as calls:
        for layers in ([], [99]):
            request = session_pb2.InspectSessionRequest(name=name, layers=layers)
            assert unary(calls.sessions.InspectSession, request, **sent) == ["mine 8"]
