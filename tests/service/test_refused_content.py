"""Content and order that do not fit: refused whole, and the writer can go on behind it."""

from collections.abc import Iterator

import grpc
import pytest

from harness.calls import Calls, piece, refusal, refused_for
from harness.daemons import DaemonProcess
from memoryd_proto.errors import Reason
from memoryd_proto.v1 import memory_pb2, types_pb2

LIMIT = 4 << 20  # max_message_bytes, by default
TEXT = b"a first sentence that stays. " * 3


@pytest.fixture(scope="module")
def calls(daemon: DaemonProcess) -> Iterator[Calls]:
    with Calls(daemon.address) as calls:
        yield calls


@pytest.fixture
def session(calls: Calls) -> str:
    name = calls.create()
    calls.append(name, TEXT)
    return name


def message(seq: int, content: bytes, session: str = "", **how) -> memory_pb2.AppendStreamRequest:
    return memory_pb2.AppendStreamRequest(
        session=session, writer_id="w", seq=seq, pieces=[piece(content, **how)]
    )


def test_invalid_utf8_drops_the_whole_message(calls, session):
    held = calls.held(session)
    request = memory_pb2.AppendRequest(
        session=session, pieces=[piece(b"good"), piece("gr\u00fc\u00df".encode() + b"\xff\xfe")]
    )
    found = refused_for(
        Reason.INVALID_UTF8, lambda: calls.call(calls.memory.Append, request), "piece 1: byte 6"
    )
    assert (found.facts["piece"], found.facts["byte"]) == ("1", "6")
    assert calls.held(session) == held


def test_invalid_utf8_in_a_stream_keeps_what_was_before_it(calls, session):
    held = calls.held(session)
    twin = calls.create()
    calls.append(twin, TEXT)
    calls.append(twin, b"kept")
    refused_for(
        Reason.INVALID_UTF8,
        lambda: calls.stream([message(1, b"kept", session), message(2, b"\xc3\x28")]),
        "byte 0",
    )
    after = calls.held(session)
    assert after.tokens > held.tokens
    assert after.checksum == calls.held(twin).checksum
    # The sequence number was not used up: the corrected message takes its place.
    assert calls.append(session, b"right", writer_id="w", seq=2).replayed is False


def test_a_character_cut_between_two_pieces_of_an_open_turn(calls, session):
    twin = calls.create()
    calls.append(twin, TEXT)
    calls.append(twin, "Gr\u00fc\u00dfe \U0001f642".encode(), role=types_pb2.ROLE_USER)
    content = "Gr\u00fc\u00dfe \U0001f642".encode()
    user = types_pb2.ROLE_USER
    for seq in range(len(content)):
        byte = content[seq : seq + 1]
        calls.append(session, byte, role=user, is_open=True, writer_id="w", seq=seq + 1)
    calls.append(session, b"", role=user, writer_id="w", seq=len(content) + 1)
    assert calls.held(session).checksum == calls.held(twin).checksum
    assert calls.held(session).tokens == calls.held(twin).tokens


def test_a_turn_cannot_end_inside_a_character(calls, session):
    calls.append(session, b"gr\xc3", is_open=True, writer_id="w", seq=1)
    before = calls.get(session)
    refused_for(Reason.INVALID_UTF8, lambda: calls.append(session, b"", writer_id="w", seq=2))
    after = calls.get(session)
    assert (after.acked_tokens, after.tail_bytes) == (before.acked_tokens, before.tail_bytes)
    calls.append(session, b"\xbc", writer_id="w", seq=2)


def test_invalid_utf8_in_a_question_and_in_a_chat(calls, session):
    held = calls.held(session)
    refused_for(Reason.INVALID_UTF8, lambda: calls.query(session, b"ab\xff"), "byte 2")
    refused_for(
        Reason.INVALID_UTF8, lambda: calls.query(session, b"", raw=True, reply_prefix=b"\xff")
    )
    refused_for(Reason.INVALID_UTF8, lambda: calls.chat(session, b"ab\xff", "r"), "byte 2")
    assert calls.held(session) == held


def test_a_message_above_the_limit_names_it(calls, session):
    held = calls.held(session)
    found = refused_for(Reason.MESSAGE_TOO_LARGE, lambda: calls.append(session, b"x" * LIMIT))
    assert int(found.facts["size"]) > int(found.facts["limit"]) == LIMIT
    refused_for(Reason.MESSAGE_TOO_LARGE, lambda: calls.stream([message(1, b"x" * LIMIT, session)]))
    assert calls.held(session) == held


def test_a_message_far_above_the_limit_is_refused_by_the_transport(calls, session):
    held = calls.held(session)
    found = refusal(lambda: calls.append(session, b"x" * (2 * LIMIT)))
    assert (found.code, found.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "")
    assert calls.held(session) == held


def test_a_sequence_gap(calls, session):
    calls.append(session, b"one ", writer_id="w", seq=1)
    held = calls.held(session)
    found = refused_for(
        Reason.SEQUENCE_GAP, lambda: calls.append(session, b"three", writer_id="w", seq=3)
    )
    assert (found.facts["expected"], found.facts["got"]) == ("2", "3")
    refused_for(Reason.SEQUENCE_GAP, lambda: calls.stream([message(7, b"x", session)]))
    assert calls.held(session) == held
    assert calls.append(session, b"one ", writer_id="w", seq=1).replayed
    assert calls.held(session) == held


def test_a_turn_of_another_writer_is_open(calls, session):
    user = types_pb2.ROLE_USER
    calls.append(session, b"wait, I ", role=user, is_open=True, writer_id="a", seq=1)
    before = calls.get(session)
    for call in (
        lambda: calls.append(session, b"me too", role=user, writer_id="b", seq=1),
        lambda: calls.append(session, b"me too", role=user),
        lambda: calls.chat(session, b"me too", "r"),
    ):
        found = refused_for(Reason.TURN_OPEN, call, "user turn is open")
        assert found.retry_after is not None
    after = calls.get(session)
    assert (after.acked_tokens, after.tail_bytes) == (before.acked_tokens, before.tail_bytes)
    calls.append(session, b"am done.", role=user, writer_id="a", seq=2)
    calls.append(session, b"me too", role=user, writer_id="b", seq=1)


def test_a_request_id_of_another_message(calls, session):
    calls.chat(session, b"hello", "same id")
    held = calls.held(session)
    refused_for(Reason.REQUEST_REUSED, lambda: calls.chat(session, b"goodbye", "same id"))
    assert calls.held(session) == held


def test_an_offset_that_is_not_the_end(calls, session):
    held = calls.held(session)

    def at(tokens: int, generation: str = held.generation):
        offset = types_pb2.Offset(generation=generation, tokens=tokens)
        return lambda: calls.append(session, b"more", expected_offset=offset)

    found = refused_for(Reason.OFFSET_CONFLICT, at(held.tokens - 1))
    assert int(found.facts["offset"]) == held.tokens
    refused_for(Reason.OFFSET_BEYOND_END, at(held.tokens + 1))
    refused_for(Reason.OFFSET_BEYOND_END, at(2**63 - 1))
    found = refused_for(Reason.GENERATION_CHANGED, at(held.tokens, "an earlier life"))
    assert found.facts["generation"] == held.generation
    assert calls.held(session) == held
    at(held.tokens)()


def test_a_query_beyond_the_end(calls, session):
    held = calls.held(session)

    def after(tokens: int, generation: str = held.generation):
        offset = types_pb2.Offset(generation=generation, tokens=tokens)
        return lambda: calls.query(session, min_offset=offset)

    refused_for(Reason.OFFSET_BEYOND_END, after(held.tokens + 1))
    refused_for(Reason.GENERATION_CHANGED, after(held.tokens, "an earlier life"))
    assert calls.held(session) == held
    after(held.tokens)()


def test_a_generation_that_is_gone_is_not_deleted(calls, session):
    held = calls.held(session)
    refused_for(Reason.GENERATION_CHANGED, lambda: calls.delete(session, generation="older"))
    assert calls.held(session) == held
