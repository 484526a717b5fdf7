"""Token files: whole or refused, and read in an order that a step number determines."""

import json
from collections import Counter
from pathlib import Path

import pytest
import torch

from lalte.train.errors import TrainError
from lalte.train.tokens import PackedTokens, TokenFile, write_token_file


def encode(text: str) -> list[int]:
    return [ord(letter) for letter in text]


def write(path: Path, *documents: str, vocab_size: int = 300) -> TokenFile:
    write_token_file(path, documents, encode, vocab_size=vocab_size, end_id=0)
    return TokenFile(path)


@pytest.mark.parametrize(("vocab_size", "width"), [(300, 2), (100_000, 4)])
def test_documents_come_back_with_an_end_after_each(tmp_path: Path, vocab_size: int, width: int):
    file = write(tmp_path / "a.tokens", "ab", "c", vocab_size=vocab_size)
    assert file.rows(0, 5).tolist() == [97, 98, 0, 99, 0]
    assert (file.facts.documents, file.facts.bytes_each) == (2, width)


def test_a_file_that_is_no_token_file_is_refused(tmp_path: Path):
    with pytest.raises(TrainError, match=r"\.tokens"):
        write(tmp_path / "a.bin", "x")
    with pytest.raises(TrainError, match="no documents"):
        write(tmp_path / "a.tokens")
    assert list(tmp_path.iterdir()) == []
    write(tmp_path / "a.tokens", "hello")
    with pytest.raises(TrainError, match="exists"):
        write(tmp_path / "a.tokens", "hello")
    with pytest.raises(TrainError, match="memoryd data tokenize"):
        TokenFile(tmp_path / "b.tokens")


def test_a_file_cut_short_is_refused(tmp_path: Path):
    write(tmp_path / "a.tokens", "hello")
    data = (tmp_path / "a.tokens").read_bytes()
    (tmp_path / "a.tokens").write_bytes(data[:-1])
    with pytest.raises(TrainError, match="11 bytes where 12"):
        TokenFile(tmp_path / "a.tokens")


def test_a_file_of_a_later_format_is_refused(tmp_path: Path):
    write(tmp_path / "a.tokens", "hello")
    facts = json.loads((tmp_path / "a.json").read_text())
    (tmp_path / "a.json").write_text(json.dumps(facts | {"format_version": 2}))
    with pytest.raises(TrainError, match="tokenize again"):
        TokenFile(tmp_path / "a.tokens")


def test_an_epoch_visits_every_sequence_of_every_file_once(tmp_path: Path):
    files = [
        write(tmp_path / "a.tokens", "abcdefghijk"),  # 12 tokens: 3 sequences of 3
        write(tmp_path / "b.tokens", "opqrst"),  # 7 tokens: 2
    ]
    packed = PackedTokens(files, length=3, seed=5)
    assert packed.count == 5
    inputs, targets = packed.batch(0, range(5))
    assert Counter(map(tuple, inputs.tolist())) == Counter(
        tuple(encode(text)) for text in ("abc", "def", "ghi", "opq", "rst")
    )
    assert torch.equal(inputs[:, 1:], targets[:, :-1])
    again, _ = packed.batch(5, range(5))
    assert sorted(map(tuple, again.tolist())) == sorted(map(tuple, inputs.tolist()))


def test_a_batch_depends_on_seed_and_number_alone(tmp_path: Path):
    file = write(tmp_path / "a.tokens", "".join(chr(97 + i % 26) for i in range(400)))
    first = PackedTokens([file], length=4, seed=1)
    _ = first.batch(300, range(8))
    fresh = PackedTokens([file], length=4, seed=1)
    assert torch.equal(first.batch(16, range(8))[0], fresh.batch(16, range(8))[0])
    assert torch.equal(first.batch(16, [3])[0][0], fresh.batch(16, range(8))[0][3])
    other = PackedTokens([file], length=4, seed=2)
    assert not torch.equal(other.batch(16, range(8))[0], first.batch(16, range(8))[0])


def test_a_length_that_no_file_holds_is_refused(tmp_path: Path):
    with pytest.raises(TrainError, match="shorter length"):
        PackedTokens([write(tmp_path / "a.tokens", "abc")], length=4, seed=0)
