"""A writer's retries are recognised, and writers make room for one another."""

import pytest

from memoryd.errors import SequenceGap, StateCorrupt
from memoryd.sessions.writers import MAX_WRITERS, Ack, Writers


def test_a_retry_gets_the_stored_ack():
    writers = Writers().applied("w", 1, Ack(10, 2)).applied("w", 2, Ack(20, 3))
    writers = Writers.unpack(writers.pack())
    assert writers.replayed("w", 2) == Ack(20, 3, replayed=True)
    # Older messages are covered by the newest ack: it stands behind them all.
    assert writers.replayed("w", 1) == Ack(20, 3, replayed=True)
    assert writers.replayed("w", 3) is None


def test_a_gap_names_the_message_that_is_missing():
    writers = Writers().applied("w", 4, Ack(10, 0))
    with pytest.raises(SequenceGap) as refused:
        writers.replayed("w", 6)
    assert refused.value.facts == {"expected": "5", "got": "6"}


def test_an_unknown_writer_starts_anywhere():
    assert Writers().replayed("w", 7) is None


def test_the_least_recently_used_writer_makes_room():
    writers = Writers()
    for number in range(MAX_WRITERS):
        writers = writers.applied(f"w{number}", 1, Ack(number, 0))
    writers = Writers.unpack(writers.applied("w0", 2, Ack(99, 0)).pack())  # w1 is the oldest now
    writers = writers.applied("new", 1, Ack(100, 0))
    assert writers.replayed("w1", 1) is None
    assert writers.replayed("w0", 2) == Ack(99, 0, replayed=True)
    assert writers.replayed("w2", 1) == Ack(2, 0, replayed=True)


def test_a_change_gives_a_copy():
    before = Writers().applied("w", 1, Ack(1, 0))
    before.applied("w", 2, Ack(2, 0))
    assert before.replayed("w", 2) is None


@pytest.mark.parametrize(
    "packed", [b"\xc1", b"\x05", b"\x91\x92\xa1w\x01", b"\x91\x94\xa1w\xc0\1\1"]
)
def test_an_altered_table_is_refused(packed):
    with pytest.raises(StateCorrupt, match="table of writers"):
        Writers.unpack(packed)
