import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lalte.text import SpecialTokenMissing, StreamDecoder, Tokenizer, TokenizerError


def test_text_package_imports_no_torch():
    code = "import lalte.text, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@given(st.text())
def test_plain_text_survives_encoding_and_decoding(tokenizer: Tokenizer, text: str):
    assert tokenizer.decode(tokenizer.encode_plain(text)) == text


@given(st.lists(st.sampled_from(["<|im_end|>", "<|im_start|>user\n", "<|endoftext|>", "a", " "])))
def test_client_markup_stays_plain_text(tokenizer: Tokenizer, parts: list[str]):
    text = "".join(parts)
    ids = tokenizer.encode_plain(text)
    assert tokenizer.special_ids.isdisjoint(ids)
    assert tokenizer.decode(ids) == text


def test_trusted_markup_becomes_special_tokens(tokenizer: Tokenizer):
    ids = tokenizer.encode_marked("<|im_start|>a<|im_end|>")
    assert ids[0] == tokenizer.special_id("<|im_start|>")
    assert ids[-1] == tokenizer.special_id("<|im_end|>")
    assert tokenizer.decode(ids) == "a"


def test_an_unknown_special_token_is_named(tokenizer: Tokenizer):
    with pytest.raises(SpecialTokenMissing, match="<nope>") as caught:
        tokenizer.special_id("<nope>")
    assert caught.value.token == "<nope>"


def test_characters_without_bytes_in_the_vocabulary_are_marked(gappy_tokenizer: Tokenizer):
    ids = gappy_tokenizer.encode_plain("a\x04b\x1dc\U00040000d")
    assert gappy_tokenizer.decode(ids) == "a\ufffdb\ufffdc\ufffdd"
    assert gappy_tokenizer.special_ids.isdisjoint(ids)


def test_a_piece_is_readable_even_inside_a_character(tokenizer: Tokenizer):
    first, *_ = tokenizer.encode_plain("ÿ")
    assert tokenizer.piece(first) == "\\xc3"
    assert tokenizer.piece(tokenizer.special_id("<|im_end|>")) == "<|im_end|>"
    assert tokenizer.piece(10**6) == ""


@given(st.lists(st.integers(0, 300)))
def test_streamed_decoding_equals_decoding_at_once(tokenizer: Tokenizer, ids: list[int]):
    ids = [i % tokenizer.vocab_size for i in ids]
    decoder = StreamDecoder(tokenizer)
    pushed = "".join(decoder.push(i) for i in ids)
    assert pushed + decoder.flush() == tokenizer.decode(ids)


@given(st.text(alphabet="aé字🙂 "))
def test_streamed_decoding_never_shows_half_a_character(tokenizer: Tokenizer, text: str):
    decoder = StreamDecoder(tokenizer)
    shown = [decoder.push(i) for i in tokenizer.encode_plain(text)]
    assert "\ufffd" not in "".join(shown)
    assert decoder.flush() == ""


def _spec(**changes: object) -> str:
    spec = {
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "ByteLevel",
            "add_prefix_space": False,
            "trim_offsets": True,
            "use_regex": True,
        },
        "post_processor": None,
        "decoder": None,
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []},
    }
    return json.dumps(spec | changes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("{}", "no `model`"),
        (_spec(model={"type": "Unigram", "vocab": []}), "Unigram"),
        (_spec(pre_tokenizer=None), "neither byte-level"),
        (_spec(pre_tokenizer={"type": "ByteLevel", "add_prefix_space": True}), "adds a space"),
        (_spec(pre_tokenizer={"type": "Metaspace"}), "no byte fallback"),
        (_spec(), r"U\+FFFD"),
        (_spec(model={"type": "BPE", "vocab": {"a": 0, "▁b": 1}, "merges": []}), "alphabet"),
        (_spec(normalizer={"type": "Nonsense"}), "was refused"),
    ],
)
def test_a_tokenizer_that_cannot_be_served_is_refused(text: str, message: str):
    with pytest.raises(TokenizerError, match=message):
        Tokenizer.from_json(text)


def test_a_tokenizer_whose_merges_forge_specials_is_refused(gappy_tokenizer: Tokenizer):
    spec = json.loads(gappy_tokenizer._marked.to_str())
    forged = spec["model"]["vocab"]["abc"]
    spec["added_tokens"].append(spec["added_tokens"][0] | {"id": forged, "content": "abc"})
    with pytest.raises(TokenizerError, match="forge"):
        Tokenizer.from_json(json.dumps(spec))


def test_a_folder_without_a_tokenizer_is_named(tmp_path):
    with pytest.raises(TokenizerError, match=r"tokenizer\.json is missing"):
        Tokenizer.load(tmp_path)
