import itertools

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lalte.text import RUN_LIMIT, InvalidUtf8, StreamEncoder, Tokenizer, TokenizerError

# Words, digits, blanks of several kinds (Unicode's among them), multi-byte text and long runs.
CHUNKS = st.sampled_from(
    ["the", " the", " ", "  ", "\n", "\r\n", "\n\n", "\t", ".", ".\n", "12", " 1", "'s", "don't",
     "é", "字字", "🙂", "\xa0", "\u2028", "\u3000", "\x1c", "\x85", "abc", "<|im_end|>", "e\u0301"]
)  # fmt: skip
LONG = st.sampled_from(["ab", "é", "字", "🙂", "1", "\u2003", " "]).flatmap(
    lambda unit: st.integers(RUN_LIMIT // 4 - 3, RUN_LIMIT + 9).map(lambda n: unit * n)
)
SHORT_TEXT = st.lists(CHUNKS, max_size=60).map("".join)
ANY_TEXT = st.lists(st.one_of(CHUNKS, CHUNKS, CHUNKS, LONG, st.text(max_size=5)), max_size=12).map(
    "".join
)


def stream(encoder: StreamEncoder, pieces: list[bytes]) -> list[int]:
    ids: list[int] = []
    tail = b""
    for piece in pieces:
        taken = encoder.take(tail, piece, final=False)
        assert len(taken.tail) < RUN_LIMIT
        ids += taken.ids
        tail = taken.tail
    taken = encoder.take(tail, b"", final=True)
    assert taken.tail == b""
    return ids + taken.ids


def cut(data: bytes, at: list[int]) -> list[bytes]:
    marks = sorted({0, len(data), *(i % (len(data) + 1) for i in at)})
    return [data[a:b] for a, b in itertools.pairwise(marks)]


@settings(max_examples=300)
@given(ANY_TEXT, st.lists(st.integers(0, 10_000), max_size=12))
@example("a" * (RUN_LIMIT - 1) + "é b", [RUN_LIMIT])
@example("a" * RUN_LIMIT + " b", [RUN_LIMIT])
@example("a" * RUN_LIMIT + " b", [RUN_LIMIT + 1])
def test_ids_do_not_depend_on_the_cuts(tokenizer: Tokenizer, text: str, at: list[int]):
    encoder = StreamEncoder(tokenizer)
    data = text.encode()
    whole = encoder.take(b"", data, final=True).ids
    assert stream(encoder, cut(data, at)) == whole
    assert tokenizer.decode(whole) == text


@settings(max_examples=50)
@given(st.lists(st.one_of(CHUNKS, st.just("ab" * 600)), max_size=6).map("".join))
def test_ids_do_not_depend_on_byte_by_byte_arrival(tokenizer: Tokenizer, text: str):
    encoder = StreamEncoder(tokenizer)
    data = text.encode()
    pieces = [data[i : i + 1] for i in range(len(data))]
    assert stream(encoder, pieces) == encoder.take(b"", data, final=True).ids


@settings(max_examples=300)
@given(SHORT_TEXT)
def test_short_runs_encode_as_one_shot(tokenizer: Tokenizer, text: str):
    encoder = StreamEncoder(tokenizer)
    assert encoder.take(b"", text.encode(), final=True).ids == tokenizer.encode_plain(text)


def test_settled_ids_wait_for_the_last_boundary(tokenizer: Tokenizer):
    encoder = StreamEncoder(tokenizer)
    taken = encoder.take(b"", b"the ab", final=False)
    assert taken.ids == tokenizer.encode_plain("the")
    assert taken.tail == b" ab"
    assert encoder.take(b" a", b"", final=False) == ([], b" a")


def test_a_long_run_is_cut_from_its_own_start(tokenizer: Tokenizer):
    encoder = StreamEncoder(tokenizer)
    run = "é" * RUN_LIMIT
    taken = encoder.take(b"x ".rstrip(), b" " + run.encode(), final=False)
    first = (" " + run).encode()[: RUN_LIMIT - 1].decode()  # 1 + 2 n bytes: one byte is moved back
    assert taken.ids[: len(tokenizer.encode_plain("x" + first))] == [
        *tokenizer.encode_plain("x"),
        *tokenizer.encode_plain(first),
    ]


def test_an_unfinished_character_waits_in_the_tail(tokenizer: Tokenizer):
    encoder = StreamEncoder(tokenizer)
    euro = "€".encode()
    assert encoder.take(b"", euro[:2], final=False) == ([], euro[:2])
    assert encoder.take(euro[:2], euro[2:], final=True).ids == tokenizer.encode_plain("€")


@pytest.mark.parametrize(
    ("tail", "data", "final", "offset"),
    [
        (b"", b"ab\xff", False, 2),
        (b"", b"ab\xc3", True, 2),
        (b"ab", b"\xff", False, 0),
        (b"a\xe2\x82", b"b", False, -2),
        (b"", b"\xed\xa0\x80", False, 0),
        (b"", b"ok \xc0\x80", False, 3),
    ],
)
def test_invalid_utf8_names_its_offset(
    tokenizer: Tokenizer, tail: bytes, data: bytes, final: bool, offset: int
):
    with pytest.raises(InvalidUtf8) as caught:
        StreamEncoder(tokenizer).take(tail, data, final)
    assert caught.value.offset == offset


class _Glued:
    """A tokenizer of which no piece starts at a blank."""

    def starts_a_piece(self, blank: str) -> bool:
        return False


def test_a_tokenizer_without_boundaries_is_refused():
    with pytest.raises(TokenizerError, match="every kind of blank"):
        StreamEncoder(_Glued())  # type: ignore[arg-type]
