"""Arguments at their bounds are taken, beyond them refused with the field's name."""

import pytest
from google.protobuf.duration_pb2 import Duration

from memoryd.errors import BadArgument
from memoryd.rpc import convert
from memoryd.sessions.services import Limits
from memoryd_proto.v1 import types_pb2

LIMITS = Limits(
    checkpoint_tokens=64,
    backlog_soft_tokens=1,
    backlog_hard_tokens=1,
    max_prompt_tokens=16,
    max_reply_tokens=100,
    default_reply_tokens=20,
)
DAY = 86_400
LONGEST = 100 * 365 * DAY


def test_what_is_absent_has_its_default():
    options = convert.reply_options(types_pb2.Sampling(), LIMITS)
    sampling = options.sampling
    assert (sampling.temperature, sampling.top_k, sampling.top_p) == (0, 0, 1)
    assert (sampling.repetition_penalty, sampling.max_tokens) == (1, 20)
    assert options.stop == ()
    again = convert.reply_options(types_pb2.Sampling(), LIMITS)
    assert again.sampling.seed != sampling.seed


def test_a_seed_of_0_is_a_seed():
    assert convert.reply_options(types_pb2.Sampling(seed=0), LIMITS).sampling.seed == 0


def test_sampling_at_its_bounds():
    message = types_pb2.Sampling(
        temperature=10, top_p=1, repetition_penalty=10, max_tokens=100, stop=["x" * 256] * 16
    )
    options = convert.reply_options(message, LIMITS)
    assert (options.sampling.max_tokens, len(options.stop)) == (100, 16)
    message.max_tokens = 101
    with pytest.raises(BadArgument, match=r"sampling.max_tokens: 0 to 100"):
        convert.reply_options(message, LIMITS)


@pytest.mark.parametrize(
    ("writer_id", "seq"), [("w", 1), ("w" * 128, 2**62 - 1), ("字" * 42, 5), ("", 0)]
)
def test_writers_at_their_bounds(writer_id, seq):
    assert convert.writer(writer_id, seq, required=False) == (writer_id, seq)


@pytest.mark.parametrize(
    ("writer_id", "seq"),
    [("w", 0), ("w", -1), ("w", 2**62), ("w" * 129, 1), ("字" * 43, 1), ("a\tb", 1), ("", 1)],
)
def test_writers_beyond_their_bounds(writer_id, seq):
    with pytest.raises(BadArgument):
        convert.writer(writer_id, seq, required=False)


def test_a_stream_needs_a_writer():
    with pytest.raises(BadArgument, match="writer_id"):
        convert.writer("", 0, required=True)


@pytest.mark.parametrize("seconds", [1, LONGEST])
def test_a_time_to_live_at_its_bounds(seconds):
    assert convert.ttl_ms(Duration(seconds=seconds)) == seconds * 1000


@pytest.mark.parametrize("duration", [Duration(nanos=999_999_999), Duration(seconds=LONGEST + 1)])
def test_a_time_to_live_beyond_its_bounds(duration):
    with pytest.raises(BadArgument, match="ttl"):
        convert.ttl_ms(duration)


def test_labels_at_their_bounds():
    given = {f"{number:064}": "v" * 256 for number in range(64)}
    assert convert.labels(given) == given
    for beyond in ({**given, "one more": ""}, {"": "v"}, {"é" * 33: "v"}, {"n": "é" * 129}):
        with pytest.raises(BadArgument, match="labels"):
            convert.labels(beyond)


@pytest.mark.parametrize("role", [number for number in types_pb2.Role.values() if number])
def test_every_role_of_the_protocol_is_one_of_ours(role):
    [piece] = convert.pieces([types_pb2.Piece(role=role, content=b"x", open=True)])
    assert (piece.content, piece.open) == (b"x", True)
    assert types_pb2.Role.Name(role) == f"ROLE_{piece.role.name}"
