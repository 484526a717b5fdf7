"""Tokens that no checkpoint covers are known exactly, and no others."""

from hypothesis import given
from hypothesis import strategies as st

from memoryd.sessions.recent import RecentTokens


@given(start=st.integers(0, 50), data=st.data())
def test_it_knows_what_lies_between_its_start_and_its_end(start, data):
    recent, stream, kept = RecentTokens(start), list(range(1000, 1000 + start)), start
    for _ in range(data.draw(st.integers(1, 6))):
        tokens = data.draw(st.lists(st.integers(0, 2**32 - 1), max_size=10))
        recent.extend(tokens)
        stream += tokens
        checkpoint = data.draw(st.integers(0, len(stream)))
        recent.forget_before(checkpoint)
        kept = max(kept, checkpoint)
        assert (recent.start, recent.end) == (kept, len(stream))
        for offset in range(len(stream) + 2):
            known = kept <= offset <= len(stream)
            assert recent.since(offset) == (stream[offset:] if known else None)
