"""What was said in a chat is remembered once, however often and at whatever daemon it is sent."""

import random
from concurrent.futures import ThreadPoolExecutor

import pytest

from harness.calls import Calls
from harness.daemons import Cluster
from harness.streams import (
    AT_ONCE,
    ENDLESS,
    GREEDY,
    absorbed,
    forget_heartbeat,
    memory,
    prose,
)
from memoryd.storage.keys import SessionKey
from memoryd_client import FinishReason, RequestReused, Sampling
from memoryd_proto.v1 import memory_pb2, types_pb2

MESSAGE = "Tell me about the river."
DRAWN = Sampling(temperature=0.9, top_p=0.95, repetition_penalty=1.1, seed=11, max_tokens=80)


def journal(pair: Cluster, name: str) -> list[int]:
    """Token ids of the session's journal behind its checkpoint."""
    generation = pair.on_a.get_session(name).generation
    ids: list[int] = []
    for _, fields in pair.redis.raw.xrange(SessionKey("default", name).journal(generation)):
        ids += memoryview(fields[b"t"]).cast("I")
    return ids


def test_turn_and_reply_are_remembered(pair: Cluster, name: str) -> None:
    client = pair.on_a
    client.create_session(name)
    start = client.append(name, "The river is long.").offset.tokens
    reply = client.chat(name, MESSAGE, sampling=GREEDY)
    assert reply.text()
    done = reply.completion
    count = len(reply.token_ids)
    assert done.usage.completion_tokens == count == GREEDY.max_tokens
    assert absorbed(client, name).offset == done.offset
    stored = journal(pair, name)
    assert len(stored) == done.offset.tokens
    found = [at for at in range(len(stored)) if stored[at : at + count] == reply.token_ids]
    assert len(found) == 1
    assert start < found[0], "the user's turn comes first"
    assert found[0] + count < len(stored), "the reply's turn is closed"
    later = client.query(name, "And?", sampling=GREEDY)
    later.text()
    assert later.completion.usage.memory_tokens == done.offset.tokens


def test_a_retry_replays_the_reply_and_appends_nothing(pair: Cluster, name: str) -> None:
    client = pair.on_a
    client.create_session(name)
    first = client.chat(name, MESSAGE, request_id="r1", sampling=DRAWN)
    text = first.text()
    between = client.chat(name, "And the mountain?", request_id="r2", sampling=GREEDY)
    between.text()
    before = memory(client, name)
    again = client.chat(name, MESSAGE, request_id="r1", sampling=DRAWN)
    assert again.text() == text
    assert again.completion.replayed
    assert not first.completion.replayed
    assert again.token_ids == first.token_ids
    assert again.completion.finish_reason == first.completion.finish_reason
    assert memory(client, name) == before
    with pytest.raises(RequestReused):
        client.chat(name, "Another message.", request_id="r1").text()
    assert memory(client, name) == before


def test_a_cancelled_chat_keeps_what_was_sent_and_closes_its_turn(pair: Cluster, name: str) -> None:
    client = pair.on_a
    client.create_session(name)
    reply = client.chat(name, MESSAGE, request_id="r", sampling=Sampling(max_tokens=ENDLESS))
    heard = "".join(text for text, _ in zip(reply, range(3), strict=False))
    reply.close()
    closed = client.get_session(name).acked_tokens
    for _ in range(2):
        client.cancel_chat(name, "r")
    client.cancel_chat(name, "never begun")
    assert client.get_session(name).acked_tokens == closed
    replay = client.chat(name, MESSAGE, request_id="r")
    assert replay.text().startswith(heard)
    assert replay.completion.replayed
    assert replay.completion.finish_reason == FinishReason.CANCELLED
    assert replay.completion.usage.completion_tokens < ENDLESS
    assert absorbed(client, name).acked_tokens == closed
    # What comes next begins a turn of its own: nothing is left to be closed before it.
    other = f"{name}-other"
    client.create_session(other)
    first = client.append(other, "Enough.").offset.tokens
    second = client.append(other, "Enough.").offset.tokens
    assert client.append(name, "Enough.").offset.tokens - closed == second - first


def test_a_chat_is_cancelled_from_elsewhere(pair: Cluster, name: str) -> None:
    """Through another daemon, which passes it on to the one that writes the reply."""
    pair.on_a.create_session(name)
    reply = pair.on_a.chat(name, MESSAGE, request_id="r", sampling=Sampling(max_tokens=ENDLESS))
    deltas = iter(reply)
    next(deltas)
    pair.on_b.cancel_chat(name, "r")
    list(deltas)
    assert reply.completion.finish_reason == FinishReason.CANCELLED
    assert reply.completion.usage.completion_tokens < ENDLESS


def test_a_chat_whose_caller_went_away_can_be_taken_up_again(pair: Cluster, name: str) -> None:
    client = pair.on_a
    client.create_session(name)
    with Calls(pair.a.address) as calls:
        request = memory_pb2.ChatRequest(
            session=name,
            request_id="r",
            message=MESSAGE.encode(),
            sampling=types_pb2.Sampling(max_tokens=32),
        )
        stream = calls.memory.Chat(request)
        heard = next(stream).delta.text
        stream.cancel()
    resumed = client.chat(name, MESSAGE, request_id="r", sampling=Sampling(max_tokens=32))
    assert resumed.text().startswith(heard)
    assert resumed.completion.replayed
    assert resumed.completion.finish_reason != FinishReason.CANCELLED


def test_a_chat_cut_off_by_a_death_goes_on_where_it_was(pair: Cluster, name: str) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # noqa: T201
    history = prose(seed=seed, words=100)
    control = f"{name}-control"
    # In fp32: what is read token by token and what is read again in blocks differ in the last
    # bits, and in bf16 those now and then decide a draw.
    doomed = pair.third(checkpoint_tokens=8, dtype="float32")
    heir = pair.third(dtype="float32")
    with doomed.client(retry=AT_ONCE) as client:
        client.create_session(name)
        daemon_id = client.get_stats().daemon_id
        client.append(name, history)
        reply = client.chat(name, MESSAGE, request_id="r", sampling=DRAWN)
        heard = "".join(text for text, _ in zip(reply, range(4), strict=False))
        doomed.kill()
        reply.close()
    forget_heartbeat(pair.redis.raw, daemon_id)
    with heir.client() as client:
        resumed = client.chat(name, MESSAGE, request_id="r", sampling=DRAWN)
        text = resumed.text()
        assert text.startswith(heard)
        assert resumed.completion.replayed

        client.create_session(control)
        client.append(control, history)
        whole = client.chat(control, MESSAGE, request_id="r", sampling=DRAWN)
        assert whole.text() == text
        assert whole.token_ids == resumed.token_ids
        assert memory(client, name) == memory(client, control)


def test_other_writers_queue_behind_a_chat(pair: Cluster, name: str) -> None:
    client = pair.on_a
    client.create_session(name)
    with ThreadPoolExecutor(2) as others:
        reply = client.chat(name, MESSAGE, sampling=DRAWN)
        next(iter(reply))
        append = others.submit(client.append, name, "The blue mountain.")
        chat = others.submit(lambda: client.chat(name, "And?", sampling=GREEDY).text())
        reply.text()
        assert append.result().offset.tokens > reply.completion.offset.tokens
        assert chat.result()
    assert reply.completion.usage.completion_tokens == DRAWN.max_tokens
    stored = journal(pair, name)
    count = len(reply.token_ids)
    whole = [at for at in range(len(stored)) if stored[at : at + count] == reply.token_ids]
    assert len(whole) == 1, "the reply stands in one piece"


def test_a_chat_whose_connection_broke_goes_on_where_it_was(pair: Cluster, name: str) -> None:
    pair.on_a.create_session(name)
    pair.on_a.append(name, "The river is long.")
    between = pair.third()  # passes the call on to the owner, which only sees its caller vanish
    with between.client(retry=AT_ONCE) as client:
        reply = client.chat(name, MESSAGE, request_id="r", sampling=DRAWN)
        heard = "".join(text for text, _ in zip(reply, range(4), strict=False))
        between.kill()
        reply.close()
    resumed = pair.on_a.chat(name, MESSAGE, request_id="r", sampling=DRAWN)
    assert resumed.text().startswith(heard)
    assert resumed.completion.finish_reason == FinishReason.LENGTH
    assert resumed.completion.usage.completion_tokens == DRAWN.max_tokens
    stored, count = journal(pair, name), len(resumed.token_ids)
    assert any(stored[at : at + count] == resumed.token_ids for at in range(len(stored)))
