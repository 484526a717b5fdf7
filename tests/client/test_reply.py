"""Replies stream in; a query is asked again only while nothing was delivered, a chat goes on."""

import threading

import grpc
import pytest

import memoryd_client
from memoryd_client import FinishReason, Freshness, Offset, Progress, Sampling
from memoryd_proto.v1 import memory_pb2, types_pb2

from .conftest import fail

TOKENS = ["Hel", "lo", ", ", "wör", "ld", "!"]


def events(kind, tokens=TOKENS, first=0, groups=1, replayed=False):
    """Responses with the tokens from `first` on, `groups` tokens a delta, then the completion."""
    for start in range(first, len(tokens), groups):
        part = range(start, min(start + groups, len(tokens)))
        yield kind(
            delta=memory_pb2.TextDelta(text="".join(tokens[i] for i in part), token_ids=part)
        )
    yield kind(
        completion=memory_pb2.Completion(
            finish_reason=types_pb2.FINISH_REASON_LENGTH,
            usage=types_pb2.Usage(prompt_tokens=3, completion_tokens=6, memory_tokens=40),
            offset=types_pb2.Offset(generation="g", tokens=40),
            seed=9,
            stale=True,
            replayed=replayed,
        )
    )


def broken(context):
    context.abort(grpc.StatusCode.UNAVAILABLE, "broken on purpose")


def test_a_query_says_what_was_asked_and_streams_the_answer(server, connect):
    def answer(request, context):
        yield memory_pb2.QueryResponse(
            progress=memory_pb2.Progress(absorbed_tokens=8, target_tokens=40)
        )
        yield from events(memory_pb2.QueryResponse)

    server.on("Query", answer)
    seen = []
    reply = connect(server.target).query(
        "s",
        "why?",
        raw=True,
        reply_prefix=b"because",
        freshness=Freshness.ABSORBED,
        min_offset=Offset("g", 7),
        allow_stale=True,
        sampling=Sampling(temperature=0.5, top_k=3, seed=0, max_tokens=6, stop=("\n",)),
        on_progress=seen.append,
    )
    assert list(reply) == TOKENS
    assert reply.token_ids == [0, 1, 2, 3, 4, 5]
    assert seen == [Progress(8, 40)]
    done = reply.completion
    assert (done.finish_reason, done.offset, done.seed) == (
        FinishReason.LENGTH,
        Offset("g", 40),
        9,
    )
    assert done.stale
    assert done.usage.memory_tokens == 40
    (request,) = server.requests["Query"]
    assert (request.session, request.question, request.reply_prefix) == ("s", b"why?", b"because")
    assert request.raw
    assert request.allow_stale
    assert request.report_progress
    assert request.freshness == memory_pb2.FRESHNESS_ABSORBED
    assert request.min_offset.tokens == 7
    assert request.sampling.HasField("seed")
    assert request.sampling.seed == 0
    assert list(request.sampling.stop) == ["\n"]


def test_text_reads_to_the_end(server, connect):
    server.on("Query", lambda request, context: events(memory_pb2.QueryResponse))
    reply = connect(server.target).query("s", "?")
    with pytest.raises(RuntimeError, match="not finished"):
        _ = reply.completion
    assert reply.text() == "Hello, wörld!"
    assert not server.requests["Query"][0].report_progress
    assert not server.requests["Query"][0].sampling.HasField("seed")


def test_a_query_that_fails_before_its_first_token_is_asked_again(server, connect):
    def late(request, context):
        yield memory_pb2.QueryResponse(progress=memory_pb2.Progress())
        broken(context)

    server.on("Query", late, late, lambda r, c: events(memory_pb2.QueryResponse))
    assert connect(server.target).query("s", "?").text() == "Hello, wörld!"
    assert len(server.requests["Query"]) == 3


def test_a_query_that_breaks_after_its_first_token_is_the_callers_to_handle(server, connect):
    def early(request, context):
        yield next(events(memory_pb2.QueryResponse))
        broken(context)

    server.on("Query", early)
    reply = connect(server.target).query("s", "?")
    with pytest.raises(memoryd_client.Unreachable):
        reply.text()
    assert len(server.requests["Query"]) == 1


def test_a_reply_without_its_end_is_an_error(server, connect):
    def cut_short(request, context):
        yield next(events(memory_pb2.QueryResponse))

    server.on("Query", cut_short)
    with pytest.raises(memoryd_client.Unreachable, match="broke off"):
        connect(server.target).query("s", "?").text()


@pytest.mark.parametrize("delivered", range(len(TOKENS) + 1))
@pytest.mark.parametrize("groups", [1, 4])
def test_a_broken_chat_goes_on_where_it_stopped(server, connect, delivered, groups):
    def breaking(request, context):
        for number, event in enumerate(events(memory_pb2.ChatResponse)):
            if number == delivered:
                broken(context)
            yield event

    def replaying(request, context):
        # The stored reply comes back cut in other places than the first time.
        return events(memory_pb2.ChatResponse, groups=groups, replayed=True)

    server.on("Chat", breaking, replaying)
    reply = connect(server.target).chat("s", "hi")
    assert reply.text() == "Hello, wörld!"
    assert reply.token_ids == [0, 1, 2, 3, 4, 5]
    assert reply.completion.replayed
    first, second = server.requests["Chat"]
    assert first == second
    assert first.request_id == reply.request_id != ""


def test_a_chat_keeps_the_callers_request_id(server, connect):
    server.on("Chat", lambda request, context: events(memory_pb2.ChatResponse))
    client = connect(server.target)
    assert client.chat("s", "hi", request_id="mine").text()
    assert client.chat("s", "hi").request_id != client.chat("s", "hi").request_id
    assert server.requests["Chat"][0].request_id == "mine"
    assert server.requests["Chat"][0].message == b"hi"


def test_a_refused_chat_is_not_sent_again(server, connect):
    def refuse(request, context):
        fail(context, "REQUEST_REUSED")
        yield

    server.on("Chat", refuse)
    with pytest.raises(memoryd_client.RequestReused):
        connect(server.target).chat("s", "hi").text()
    assert len(server.requests["Chat"]) == 1


@pytest.mark.parametrize("method", ["query", "chat"])
def test_closing_a_reply_cancels_the_call(server, connect, method):
    cancelled = threading.Event()
    kind = memory_pb2.QueryResponse if method == "query" else memory_pb2.ChatResponse

    def endless(request, context):
        context.add_callback(cancelled.set)
        while context.is_active():
            yield kind(delta=memory_pb2.TextDelta(text="x", token_ids=[1]))

    server.on(method.capitalize(), endless)
    reply = getattr(connect(server.target), method)("s", "hi")
    assert next(iter(reply)) == "x"
    reply.close()
    assert cancelled.wait(60)


async def test_cancelling_a_task_cancels_the_call(server):
    import asyncio

    started, cancelled = threading.Event(), threading.Event()

    def silent(request, context):
        context.add_callback(cancelled.set)
        started.set()
        cancelled.wait(60)
        yield from ()

    server.on("Query", silent)
    async with memoryd_client.AsyncClient(server.target) as client:
        task = asyncio.create_task(client.query("s", "?").text())
        await asyncio.to_thread(started.wait, 60)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(cancelled.wait, 60)
