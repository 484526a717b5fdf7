"""A reply shows whole characters, ends before its stop string, and keeps ids and text together."""

from hypothesis import given
from hypothesis import strategies as st

from memoryd.sessions.reply import Delta, ReplyText


def show(tokenizer, ids, stops=()):
    """All that is shown, taken whenever it is settled, as the services do it."""
    reply, taken = ReplyText(tokenizer, stops), []
    for token in ids:
        reply.push(token)
        if reply.settled:
            taken.append(reply.take())
            assert taken[-1].text == tokenizer.decode(taken[-1].token_ids)
        if reply.stopped:
            break
    reply.finish()
    taken.append(reply.take())
    return reply, taken


texts = st.text(alphabet=st.sampled_from("ab \né字🙂STOP"), max_size=30)


@given(text=texts)
def test_all_is_shown_and_never_half_a_character(tokenizer, text):
    ids = tokenizer.encode_plain(text)
    _, taken = show(tokenizer, ids)
    assert "".join(delta.text for delta in taken) == text
    assert [token for delta in taken for token in delta.token_ids] == ids
    assert not any("\ufffd" in delta.text for delta in taken)


@given(before=texts, after=texts)
def test_it_ends_before_the_stop_string(tokenizer, before, after):
    text = before + "STOP" + after
    reply, taken = show(tokenizer, tokenizer.encode_plain(text), ("STOP",))
    assert reply.stopped
    assert not reply.settled
    assert "".join(delta.text for delta in taken) == text[: text.index("STOP")]


def test_what_may_become_a_stop_string_waits(tokenizer):
    reply = ReplyText(tokenizer, ("STOP",))
    for token in tokenizer.encode_plain("aSTO"):
        reply.push(token)
    assert not reply.settled
    assert reply.waiting == len(tokenizer.encode_plain("aSTO"))
    for token in tokenizer.encode_plain("b"):
        reply.push(token)
    assert reply.settled
    assert reply.take().text == "aSTOb"
    assert reply.take() == Delta("", ())


def test_an_unfinished_character_at_the_end_is_marked(tokenizer):
    ids = tokenizer.encode_plain("a字")
    cut = next(n for n in range(len(ids)) if "\ufffd" in tokenizer.decode(ids[: n + 1]))
    reply, taken = show(tokenizer, ids[: cut + 1])
    assert "".join(delta.text for delta in taken) == "a\ufffd"
    assert reply.waiting == 0
