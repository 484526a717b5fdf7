"""Builds a tokenizer.json from the vocabulary, merges and pre-tokenizer name inside a GGUF file."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from lalte.checkpoints.errors import CheckpointError
from lalte.checkpoints.sentencepiece import Piece, PieceKind, tokenizer_spec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# llama.cpp's token types (gguf.TokenType) that are recognised as a whole before any merge.
_WHOLE_TOKEN_TYPES = {3: True, 4: False}  # control -> special, user-defined -> not

_BYTE_LEVEL = {
    "type": "ByteLevel",
    "add_prefix_space": False,
    "trim_offsets": True,
    "use_regex": True,
}
_SINGLE_DIGITS = {"type": "Digits", "individual_digits": True}

# What llama.cpp's `tokenizer.ggml.pre` names mean. SmolLM's splits digits one by one, then GPT-2's.
_PRE_TOKENIZERS: dict[str, dict[str, Any]] = {
    "gpt-2": _BYTE_LEVEL,
    "smollm": {"type": "Sequence", "pretokenizers": [_SINGLE_DIGITS, _BYTE_LEVEL]},
}


def tokenizer_json(source: str, fields: Mapping[str, Any]) -> str:
    """Write the tokenizer.json of a GGUF's metadata `fields`.

    Raises CheckpointError for tokenizers other than SentencePiece's BPE, which llama.cpp calls
    "llama", and byte-level BPE with a known pre-tokenizer.
    """
    model, pre = fields.get("tokenizer.ggml.model"), fields.get("tokenizer.ggml.pre")
    if model == "llama":
        return json.dumps(_sentencepiece(fields), ensure_ascii=False, indent=1)
    if model != "gpt2" or pre not in _PRE_TOKENIZERS:
        raise CheckpointError(
            source,
            f"its tokenizer is {model!r} with pre-tokenizer {pre!r}; supported are 'llama', and "
            f"'gpt2' with {sorted(_PRE_TOKENIZERS)}. Convert the model's safetensors folder "
            "instead, which brings its own tokenizer.json",
        )
    tokens: Sequence[str] = fields["tokenizer.ggml.tokens"]
    types: Sequence[int] = fields["tokenizer.ggml.token_type"]
    added = [
        {
            "id": i,
            "content": token,
            "special": _WHOLE_TOKEN_TYPES[kind],
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
        }
        for i, (token, kind) in enumerate(zip(tokens, types, strict=True))
        if kind in _WHOLE_TOKEN_TYPES
    ]
    spec = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": _PRE_TOKENIZERS[pre],
        "post_processor": None,
        "decoder": _BYTE_LEVEL,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: i for i, token in enumerate(tokens)},
            "merges": [merge.split(" ") for merge in fields["tokenizer.ggml.merges"]],
        },
    }
    return json.dumps(spec, ensure_ascii=False, indent=1)


def adds_bos(fields: Mapping[str, Any]) -> bool:
    """Whether every stream starts with BOS; llama.cpp's default depends on the tokenizer."""
    default = fields.get("tokenizer.ggml.model") == "llama"
    return bool(fields.get("tokenizer.ggml.add_bos_token", default))


def _sentencepiece(fields: Mapping[str, Any]) -> dict[str, Any]:
    tokens: Sequence[str] = fields["tokenizer.ggml.tokens"]
    scores, types = fields["tokenizer.ggml.scores"], fields["tokenizer.ggml.token_type"]
    pieces = [
        Piece(text, float(score), PieceKind(kind))  # llama.cpp's types are SentencePiece's
        for text, score, kind in zip(tokens, scores, types, strict=True)
    ]
    return tokenizer_spec(
        pieces,
        dummy_prefix=bool(fields.get("tokenizer.ggml.add_space_prefix", True)),
        bos=tokens[fields.get("tokenizer.ggml.bos_token_id", 1)] if adds_bos(fields) else "",
    )
