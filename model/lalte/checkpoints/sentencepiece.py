"""Builds a tokenizer.json from a SentencePiece model of the BPE kind, `tokenizer.model`.

The file is a protobuf message (google/sentencepiece, sentencepiece_model.proto); the few fields
that matter here are read from the wire format as they stand. SentencePiece joins the neighbours
whose union has the highest score, the leftmost first. A list of merges, ordered by score, says
the same; where a piece can be made in several ways, they stand in the order that Hugging Face's
conversion gives them.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from lalte.checkpoints.errors import CheckpointError
from lalte.text.metaspace import BYTE_TOKENS, METASPACE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_KINDS = {1: "unigram", 2: "bpe", 3: "word", 4: "char"}
_VARINT, _EIGHT_BYTES, _BYTES, _FOUR_BYTES = 0, 1, 2, 5


class PieceKind(IntEnum):
    """SentencePiece.Type. Only NORMAL pieces are what merges are made of."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True, slots=True)
class Piece:
    """One entry of the vocabulary; its id is its place."""

    text: str
    score: float
    kind: PieceKind


@dataclass(frozen=True, slots=True)
class SentencePiece:
    """tokenizer_json: text of a tokenizer.json. bos, eos: texts of those tokens, "" for none."""

    tokenizer_json: str
    bos: str
    eos: str


def read_sentencepiece(path: Path) -> SentencePiece:
    """Read a tokenizer.model. Raises CheckpointError, also for kinds other than BPE."""
    try:
        model = _Message(path.read_bytes())
        trainer, normalizer = _Message(model.data(2)), _Message(model.data(3))
        pieces = [_piece(_Message(data)) for data in model.all(1)]
        if not pieces:
            raise ValueError("it holds no pieces")
        bos, eos = (_text(pieces, trainer.integer(n, d)) for n, d in ((41, 1), (42, 2)))
    except ValueError as error:
        raise CheckpointError(
            path, f"is no SentencePiece model ({error}); download it again"
        ) from error
    kind = trainer.integer(3, 1)
    if kind != 2:
        raise CheckpointError(
            path,
            f"is a SentencePiece model of the kind {_KINDS.get(kind, kind)!r}; only 'bpe' is "
            "supported",
        )
    altering = [
        what
        for what, found in (
            (f"normalises text ({normalizer.data(1).decode()})", normalizer.data(2)),
            ("joins spaces", normalizer.integer(4, 1)),
            ("leaves spaces as they are", not normalizer.integer(5, 1)),
        )
        if found
    ]
    if altering:
        raise CheckpointError(
            path,
            f"{' and '.join(altering)}: tokens would not be the text that was sent, which is not "
            "supported",
        )
    spec = tokenizer_spec(pieces, dummy_prefix=bool(normalizer.integer(3, 1)), bos=bos)
    return SentencePiece(json.dumps(spec, ensure_ascii=False, indent=1), bos, eos)


def tokenizer_spec(pieces: Sequence[Piece], *, dummy_prefix: bool, bos: str) -> dict[str, Any]:
    """Write pieces as a tokenizer.json, as Hugging Face has them for Llama 2.

    dummy_prefix: whether a space stands in front of every text. bos: what starts every text.
    """
    vocab = {piece.text: i for i, piece in enumerate(pieces)}
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": METASPACE}
    prepend = [{"type": "Prepend", "prepend": METASPACE}] if dummy_prefix else []
    back = {"type": "Replace", "pattern": {"String": METASPACE}, "content": " "}
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if dummy_prefix else []
    whole = (PieceKind.UNKNOWN, PieceKind.CONTROL, PieceKind.USER_DEFINED)
    unknown = [piece.text for piece in pieces if piece.kind is PieceKind.UNKNOWN]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": i,
                "content": piece.text,
                "special": piece.kind is not PieceKind.USER_DEFINED,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
            }
            for i, piece in enumerate(pieces)
            if piece.kind in whole
        ],
        "normalizer": {"type": "Sequence", "normalizers": [*prepend, replace]},
        "pre_tokenizer": None,
        "post_processor": _starting_with(bos, vocab) if bos else None,
        "decoder": {
            "type": "Sequence",
            "decoders": [back, {"type": "ByteFallback"}, {"type": "Fuse"}, *strip],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": unknown[0] if unknown else None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": vocab.keys() >= set(BYTE_TOKENS),
            "ignore_merges": False,
            "vocab": vocab,
            "merges": merges_of(pieces),
        },
    }


def merges_of(pieces: Sequence[Piece]) -> list[tuple[str, str]]:
    """Order all ways of joining two pieces into a third, as Hugging Face's conversion does.

    By the score of what they make, then the longer left part; equals by the parts' ids.
    """
    ids = {piece.text: i for i, piece in enumerate(pieces) if piece.kind is PieceKind.NORMAL}
    found: list[tuple[float, str, str]] = []
    for text, i in ids.items():
        splits = [(text[:at], text[at:]) for at in range(1, len(text))]
        known = [(left, right) for left, right in splits if left in ids and right in ids]
        known.sort(key=lambda pair: (ids[pair[0]], ids[pair[1]]))
        found += [(pieces[i].score, left, right) for left, right in known]
    found.sort(key=lambda merge: (merge[0], len(merge[1]), len(merge[2])), reverse=True)
    return [(left, right) for _, left, right in found]


def _starting_with(bos: str, vocab: dict[str, int]) -> dict[str, Any]:
    first: dict[str, Any] = {"SpecialToken": {"id": bos, "type_id": 0}}
    text, other = ({"Sequence": {"id": name, "type_id": i}} for i, name in enumerate("AB"))
    second = {"SpecialToken": {"id": bos, "type_id": 1}}
    return {
        "type": "TemplateProcessing",
        "single": [first, text],
        "pair": [first, text, second, other],
        "special_tokens": {bos: {"id": bos, "ids": [vocab[bos]], "tokens": [bos]}},
    }


def _piece(message: _Message) -> Piece:
    (score,) = struct.unpack("<f", message.data(2) or bytes(4))
    return Piece(message.data(1).decode(), score, PieceKind(message.integer(3, 1)))


def _text(pieces: list[Piece], token: int) -> str:
    return pieces[token].text if token < len(pieces) else ""


class _Message:
    """The fields of a protobuf message by number, undecoded. Raises ValueError for other bytes."""

    def __init__(self, data: bytes) -> None:
        self._fields: dict[int, list[int | bytes]] = {}
        for number, value in _fields(data):
            self._fields.setdefault(number, []).append(value)

    def all(self, number: int) -> list[bytes]:
        """Return every value of a repeated field."""
        values = self._fields.get(number, [])
        if not all(isinstance(value, bytes) for value in values):
            raise ValueError(f"field {number} holds a number")
        return [value for value in values if isinstance(value, bytes)]

    def data(self, number: int) -> bytes:
        """Return a field's bytes; none for a field that is not there."""
        return (self.all(number) or [b""])[-1]

    def integer(self, number: int, default: int) -> int:
        """Return an integer, truth value or name of a choice."""
        value = self._fields.get(number, [default])[-1]
        if isinstance(value, bytes):
            raise ValueError(f"field {number} holds no number")
        return value


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Cut a message into its fields (protobuf's encoding, "Message structure")."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, at = _varint(data, at)
            yield number, value
            continue
        if wire == _BYTES:
            size, at = _varint(data, at)
        elif wire in (_EIGHT_BYTES, _FOUR_BYTES):
            size = 8 if wire == _EIGHT_BYTES else 4
        else:
            raise ValueError(f"byte {at} starts no field")
        if at + size > len(data):
            raise ValueError(f"it is cut short in field {number}")
        yield number, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Read 7 bits a byte, the lowest first; returns the number and what follows it."""
    number = 0
    for shift in range(0, 64, 7):
        if at == len(data):
            raise ValueError("it is cut short")
        number |= (data[at] & 0x7F) << shift
        at += 1
        if not data[at - 1] & 0x80:
            return number, at
    raise ValueError(f"byte {at} ends no number")
