"""Tokenizers laid out like Llama 2's: exact text, no space that nobody wrote."""

import json
from typing import Any

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from lalte.text import StreamDecoder, StreamEncoder, Tokenizer, TokenizerError
from lalte.text.metaspace import BYTE_TOKENS, METASPACE

LETTERS = st.text(alphabet="theabcdn' \n\t.12é字🙂\xa0", max_size=40)


def build(spec: dict[str, Any], **changes: Any) -> Tokenizer:
    return Tokenizer.from_json(json.dumps(spec | changes))


def library(spec: dict[str, Any], **changes: Any) -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_str(json.dumps(spec | changes))


def step(scheme: str, *, split: bool) -> dict[str, Any]:
    shape = {"type": "Metaspace", "replacement": METASPACE}
    return {
        "normalizer": None,
        "pre_tokenizer": shape | {"prepend_scheme": scheme, "split": split},
    }


@given(text=LETTERS)
def test_ids_are_the_library_s_but_for_the_dummy_prefix(metaspace_spec, text: str):
    tokenizer = build(metaspace_spec)
    theirs = library(metaspace_spec).encode(text, add_special_tokens=False).ids
    assert tokenizer.encode_plain(f" {text}" if text else "") == theirs
    encoder = StreamEncoder(tokenizer)
    taken = encoder.take(b"", f" {text}".encode() if text else b"", final=True)
    assert taken.ids == theirs


@pytest.mark.parametrize("split", [True, False])
@given(text=LETTERS)
def test_ids_are_the_library_s_for_the_pre_tokenizer_too(metaspace_spec, split: bool, text: str):
    changes = step("never", split=split)
    theirs = library(metaspace_spec, **changes).encode(text, add_special_tokens=False).ids
    assert build(metaspace_spec, **changes).encode_plain(text) == theirs
    assert build(metaspace_spec, **step("always", split=split)).encode_plain(text) == theirs


def test_older_files_join_merges_and_say_add_prefix_space(metaspace_spec):
    merges = [" ".join(merge) for merge in metaspace_spec["model"]["merges"]]
    old = build(
        metaspace_spec,
        normalizer=None,
        pre_tokenizer={"type": "Metaspace", "replacement": METASPACE, "add_prefix_space": True},
        model=metaspace_spec["model"] | {"merges": merges},
    )
    new = build(metaspace_spec, **step("first", split=True))
    text = " don't forget    the abc"
    assert old.encode_plain(text) == new.encode_plain(text)


def test_merges_join_words_as_trained_and_no_space_is_invented(metaspace_spec):
    tokenizer = build(metaspace_spec)
    vocab = metaspace_spec["model"]["vocab"]
    assert tokenizer.encode_plain(" the") == [vocab["▁the"]]
    assert vocab["▁the"] not in tokenizer.encode_plain("the")
    assert tokenizer.token_bytes(tokenizer.encode_plain("    a")[0]) == b"    "


def test_what_the_vocabulary_lacks_is_written_in_bytes(metaspace_spec):
    tokenizer = build(metaspace_spec)
    vocab = metaspace_spec["model"]["vocab"]
    for text in ("\n", "字", "🙂", METASPACE):
        assert tokenizer.encode_plain(text) == [vocab[BYTE_TOKENS[b]] for b in text.encode()]


def test_a_written_metaspace_is_no_space(metaspace_spec):
    tokenizer = build(metaspace_spec)
    text = "▁the ▁ ab▁▁"
    assert tokenizer.decode(tokenizer.encode_plain(text)) == text


def test_text_that_looks_like_a_byte_token_stays_text(metaspace_spec):
    tokenizer = build(metaspace_spec)
    ids = tokenizer.encode_plain("<0x0A>")
    assert tokenizer.decode(ids) == "<0x0A>"
    assert metaspace_spec["model"]["vocab"]["<0x0A>"] not in ids


def test_a_reply_keeps_its_leading_space_and_never_shows_half_a_character(metaspace_spec):
    tokenizer = build(metaspace_spec)
    decoder = StreamDecoder(tokenizer)
    shown = [decoder.push(i) for i in tokenizer.encode_plain(" the🙂")]
    assert shown == [" the", "", "", "", "🙂"]
    assert not decoder.holding


def test_merges_never_make_special_or_byte_tokens(metaspace_spec):
    """HF's conversion derives merges from the vocabulary, control tokens included."""
    model = metaspace_spec["model"]
    last = max(model["vocab"].values())
    model = model | {
        "vocab": model["vocab"] | {"<": last + 1, "s>": last + 2, "s": last + 3, ">": last + 4},
        "merges": [["s", ">"], ["<", "s>"], *model["merges"]],
    }
    tokenizer = build(metaspace_spec, model=model)
    ids = tokenizer.encode_plain("a<s>b")
    assert last + 2 in ids  # the merges as such are at work
    assert tokenizer.special_ids.isdisjoint(ids)
    assert tokenizer.decode(ids) == "a<s>b"
    assert tokenizer.special_id("<s>") in tokenizer.encode_marked("a<s>b")


def test_a_blank_inside_tokens_is_no_boundary(metaspace_spec):
    """Llama 2's vocabulary has tokens that end in a carriage return."""
    model = metaspace_spec["model"]
    last = max(model["vocab"].values())
    model = model | {
        "vocab": model["vocab"] | {"\r": last + 1, ".\r": last + 2},
        "merges": [*model["merges"], [".", "\r"]],
    }
    tokenizer = build(metaspace_spec, model=model)
    assert [blank for blank in " \t\r\n" if tokenizer.starts_a_piece(blank)] == [" ", "\t", "\n"]
    encoder = StreamEncoder(tokenizer)
    taken = encoder.take(b"", b"ab.", final=False)
    assert taken == ([], b"ab.")
    assert encoder.take(taken.tail, b"\r", final=True).ids == tokenizer.encode_plain("ab.\r")
    assert tokenizer.encode_plain(".\r") == [last + 2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFKC"}]}}, "neither"),
        ({"pre_tokenizer": {"type": "Digits", "individual_digits": True}}, "'Digits' is not"),
        ({"pre_tokenizer": {"type": "Metaspace", "replacement": "_"}}, "'Metaspace' is not"),
    ],
)
def test_other_parts_are_refused_by_name(metaspace_spec, changes: dict[str, Any], message: str):
    with pytest.raises(TokenizerError, match=message):
        build(metaspace_spec, **changes)


def test_what_would_lose_text_is_refused(metaspace_spec):
    folding = metaspace_spec["normalizer"]["normalizers"] + [{"type": "Lowercase"}]
    with pytest.raises(TokenizerError, match="'Lowercase' alters text"):
        build(metaspace_spec, normalizer={"type": "Sequence", "normalizers": folding})
    model = metaspace_spec["model"]
    with pytest.raises(TokenizerError, match="no byte fallback"):
        build(metaspace_spec, model=model | {"byte_fallback": False})
    vocab = {text: i for text, i in model["vocab"].items() if text != "<0xFF>"}
    with pytest.raises(TokenizerError, match="no byte fallback"):
        build(metaspace_spec, model=model | {"vocab": vocab})
    with pytest.raises(TokenizerError, match="end_of_word_suffix '</w>'"):
        build(metaspace_spec, model=model | {"end_of_word_suffix": "</w>"})
