"""tokenizer.model, read without the package that writes it."""

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers

from harness.metaspace import train_metaspace_spec, write_sentencepiece
from lalte.checkpoints.errors import CheckpointError
from lalte.checkpoints.gguf_tokenizer import adds_bos
from lalte.checkpoints.gguf_tokenizer import tokenizer_json as gguf_tokenizer_json
from lalte.checkpoints.hub_folder import read_text_files
from lalte.checkpoints.sentencepiece import Piece, PieceKind, merges_of, read_sentencepiece
from lalte.text import Tokenizer
from lalte.text.metaspace import BYTE_TOKENS

TEXTS = ["the abc don't forget", "    é 字字 12", "ab the  the\tab", "été\nabc", "<s> <0x0A> a"]


@pytest.fixture(scope="module")
def spec() -> dict[str, Any]:
    return train_metaspace_spec()


def test_the_model_gives_the_ids_of_its_tokenizer_json(spec, tmp_path: Path):
    read = read_sentencepiece(write_sentencepiece(tmp_path / "tokenizer.model", spec))
    assert (read.bos, read.eos) == ("<s>", "</s>")
    ours, published = (
        Tokenizer.from_json(read.tokenizer_json),
        Tokenizer.from_json(json.dumps(spec)),
    )
    assert ours.special_ids == published.special_ids
    assert ours.vocab_size == published.vocab_size
    for text in TEXTS:
        assert ours.encode_plain(text) == published.encode_plain(text)
        assert ours.decode(ours.encode_plain(text)) == text


def test_other_programs_read_what_is_written(spec, tmp_path: Path):
    read = read_sentencepiece(write_sentencepiece(tmp_path / "tokenizer.model", spec))
    theirs = tokenizers.Tokenizer.from_str(read.tokenizer_json)
    ids = theirs.encode("the abc 字").ids
    assert ids[0] == theirs.token_to_id("<s>")
    assert theirs.decode(ids) == "the abc 字"


def test_a_gguf_file_s_vocabulary_gives_the_same_ids(spec):
    """llama.cpp stores pieces, scores and types as SentencePiece has them."""
    vocab, added = spec["model"]["vocab"], {token["content"] for token in spec["added_tokens"]}
    ranks = {"".join(merge): -float(i) for i, merge in enumerate(spec["model"]["merges"])}
    kinds = {"<unk>": 2} | dict.fromkeys(added - {"<unk>"}, 3) | dict.fromkeys(BYTE_TOKENS, 6)
    fields = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": list(vocab),
        "tokenizer.ggml.scores": [ranks.get(token, -1e6) for token in vocab],
        "tokenizer.ggml.token_type": [kinds.get(token, 1) for token in vocab],
        "tokenizer.ggml.bos_token_id": vocab["<s>"],
    }
    text = gguf_tokenizer_json("m.gguf", fields)
    ours, published = Tokenizer.from_json(text), Tokenizer.from_json(json.dumps(spec))
    assert ours.special_ids == published.special_ids
    for text in TEXTS:
        assert ours.encode_plain(text) == published.encode_plain(text)
    assert adds_bos(fields)
    assert not adds_bos(fields | {"tokenizer.ggml.add_bos_token": False})


def test_merges_are_those_of_the_usual_conversion():
    from transformers.convert_slow_tokenizer import generate_merges

    texts = ["a", "b", "c", "aa", "aaa", "ab", "abc", "bc", "aaaa", "▁", "▁▁", "▁a", "▁▁a"]
    pieces = [Piece(text, -float(i * 7 % 5), PieceKind.NORMAL) for i, text in enumerate(texts)]
    theirs = generate_merges(
        {text: i for i, text in enumerate(texts)}, [(p.text, p.score) for p in pieces]
    )
    assert merges_of(pieces) == theirs


def test_control_pieces_and_bytes_are_no_product_of_merges():
    pieces = [
        Piece("<s>", 0.0, PieceKind.CONTROL),
        Piece("<0x0A>", 0.0, PieceKind.BYTE),
        *(Piece(text, -1.0, PieceKind.NORMAL) for text in ("<", "s>", "<0x0", "A>", "<s")),
        Piece("ss", -2.0, PieceKind.UNUSED),
        Piece("s", -3.0, PieceKind.NORMAL),
    ]
    assert merges_of(pieces) == [("<", "s")]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": 1}, "of the kind 'unigram'; only 'bpe'"),
        ({"model_type": 4}, "of the kind 'char'"),
        ({"name": "nmt_nfkc", "precompiled_charsmap": b"x"}, r"normalises text \(nmt_nfkc\): tok"),
        ({"remove_extra_whitespaces": True}, "joins spaces"),
        ({"escape_whitespaces": False}, "leaves spaces as they are"),
    ],
)
def test_another_kind_is_refused_by_name(spec, tmp_path: Path, changes: dict[str, Any], message):
    path = write_sentencepiece(tmp_path / "tokenizer.model", spec, **changes)
    with pytest.raises(CheckpointError, match=message):
        read_sentencepiece(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no pieces"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:", "no SentencePiece model"),
        (b"IQ== 0\nIg== 1\n", "no SentencePiece model"),
        (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", "ends no number"),
        (b"\x0a\x05\x0a", "cut short in field 1"),
        (b"\x0a", "cut short"),
        (b"\x08\x01", "field 1 holds a number"),
        (b"\x0a\x03\x1a\x01\x01", "field 3 holds no number"),
    ],
)
def test_other_files_are_refused_in_one_sentence(tmp_path: Path, content: bytes, message: str):
    (tmp_path / "tokenizer.model").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        read_sentencepiece(tmp_path / "tokenizer.model")


def test_a_model_cut_short_anywhere_is_refused(spec, tmp_path: Path):
    path = write_sentencepiece(tmp_path / "tokenizer.model", spec)
    whole = path.read_bytes()
    for size in range(0, len(whole) - 1, 7):
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointError):
            read_sentencepiece(path)


def folder_with(tmp_path: Path, spec: dict[str, Any], settings: dict[str, Any] | None) -> Path:
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": 5}))
    write_sentencepiece(tmp_path / "tokenizer.model", spec)
    if settings is not None:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    return tmp_path


@pytest.mark.parametrize(
    ("settings", "bos", "add_bos"),
    [
        (None, "<s>", True),
        ({}, "<s>", True),
        ({"add_bos_token": False}, "<s>", False),
        ({"bos_token": "<|im_start|>"}, "<|im_start|>", False),
        ({"bos_token": "<|im_start|>", "add_bos_token": True}, "<|im_start|>", True),
    ],
)
def test_a_folder_may_hold_the_model_alone(
    spec, tmp_path: Path, settings: dict[str, Any] | None, bos: str, add_bos: bool
):
    text = read_text_files(folder_with(tmp_path, spec, settings))
    assert (text.bos, text.eos, text.add_bos) == (bos, "</s>", add_bos)
    assert text.stop_ids == {5}


def test_tokenizer_json_goes_first_and_its_post_processor_says_whether_bos_is_added(
    spec, tmp_path: Path
):
    folder = folder_with(tmp_path, spec, {"bos_token": "<s>", "eos_token": "</s>"})
    (folder / "tokenizer.json").write_text(json.dumps(spec))
    assert not read_text_files(folder).add_bos
    template = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>"}}]}
    both = {"type": "Sequence", "processors": [{"type": "ByteLevel"}, template]}
    for processor in (template, both):
        (folder / "tokenizer.json").write_text(json.dumps(spec | {"post_processor": processor}))
        assert read_text_files(folder).add_bos


def test_a_folder_without_a_tokenizer_names_both_files(tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: is missing, and so is tokenizer"):
        read_text_files(tmp_path)
