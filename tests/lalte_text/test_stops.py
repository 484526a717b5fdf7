import pytest
from hypothesis import given
from hypothesis import strategies as st

from lalte.text import StopStrings


def cut_at_first_stop(text: str, stops: list[str]) -> tuple[str, bool]:
    """The definition: the stop that is complete first, in order of arrival, ends the text."""
    for end in range(len(text) + 1):
        found = [text[:end].find(stop) for stop in stops if text[:end].endswith(stop)]
        if found:
            return text[: min(found)], True
    return text, False


@given(
    st.lists(st.text(alphabet="abc", max_size=9), max_size=9),
    st.lists(st.text(alphabet="abc", min_size=1, max_size=4), max_size=3),
)
def test_text_ends_before_the_first_stop_string(pieces: list[str], stops: list[str]):
    matcher = StopStrings(stops)
    text = "".join(pieces)
    sent = ""
    for piece in pieces:
        sent += matcher.push(piece)
        assert text.startswith(sent)
    stopped = matcher.stopped
    sent += matcher.flush()
    assert (sent, stopped) == cut_at_first_stop(text, stops)


def test_nothing_is_held_back_without_need():
    matcher = StopStrings(["\n\nUser:"])
    assert matcher.push("hello\n") == "hello"
    assert matcher.push("world") == "\nworld"
    assert matcher.push("\n\nUser: x") == ""
    assert matcher.stopped
    assert matcher.push("more") == ""


def test_an_empty_stop_string_is_refused():
    with pytest.raises(ValueError, match="empty"):
        StopStrings([""])
