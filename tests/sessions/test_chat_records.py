"""A chat sent again finds its record, a reused id is refused, and old records make room."""

import pytest

from memoryd.errors import RequestReused, StateCorrupt
from memoryd.sessions.chat import MAX_RECORDS, ChatRecord, ChatRecords


def test_a_record_comes_back_as_it_was_stored():
    record = ChatRecords().new(b"hello", seed=2**64 - 1).grown((1, 2), "a\u00e9")
    records = ChatRecords().put("r", record)
    stored = records.changes_since(ChatRecords())
    assert ChatRecords.unpack({**stored, "other": b"?"}).get("r", b"hello") == record


def test_an_id_of_another_message_is_refused():
    records = ChatRecords().put("r", ChatRecords().new(b"hello", seed=1))
    assert records.get("s", b"goodbye") is None
    with pytest.raises(RequestReused, match="'r'"):
        records.get("r", b"goodbye")


def test_the_newest_records_are_kept_by_order_and_not_by_name():
    records = ChatRecords()
    for number in range(MAX_RECORDS + 3):
        name = f"{MAX_RECORDS + 3 - number:03}"
        records = records.put(name, records.new(b"m", seed=number))
    assert len(records.records) == MAX_RECORDS
    seeds = sorted(record.seed for record in records.records.values())
    assert seeds == list(range(3, MAX_RECORDS + 3))


def test_changes_are_what_differs_from_what_is_stored():
    first = ChatRecords().put("a", ChatRecords().new(b"a", seed=1))
    second = first.put("b", first.new(b"b", seed=2))
    assert set(second.changes_since(first)) == {"chat:b"}
    assert first.changes_since(second) == {"chat:b": None}
    assert second.changes_since(second) == {}


@pytest.mark.parametrize("packed", [b"\xc1", b"\x93\1\2\3", b"\x96\1\xc4\0\1\xc0\xa0\xc0"])
def test_an_altered_record_is_refused(packed):
    with pytest.raises(StateCorrupt, match="chat record"):
        ChatRecord.unpack(packed)
