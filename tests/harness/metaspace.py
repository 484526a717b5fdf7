"""Tokenizers of the published checkpoints' kind, small: spaces as metaspaces, byte tokens."""

import json
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import models, pre_tokenizers, trainers

from lalte.text.metaspace import BYTE_TOKENS, METASPACE

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]

# Enough words, digits, blanks and multi-byte text for merges of every kind; a line's indentation
# gives tokens of several spaces.
TRAINING_TEXT = 8 * [
    *(f"{word} don't forget the {word}, 12 or 11" for word in ("the", "ab", "an", "abc")),
    "é 字字 été the",
    "    the\tthe\r\nabc.\n\n  ab",
    "def the():\n        abc = 12;\r\n",
]
DUMMY_PREFIX = {
    "normalizer": {
        "type": "Sequence",
        "normalizers": [
            {"type": "Prepend", "prepend": METASPACE},
            {"type": "Replace", "pattern": {"String": " "}, "content": METASPACE},
        ],
    }
}


def metaspace(split: bool) -> dict[str, Any]:
    step = {"type": "Metaspace", "replacement": METASPACE, "prepend_scheme": "first"}
    return {"pre_tokenizer": step | {"split": split}}


def train_metaspace_spec() -> dict[str, Any]:
    """Train a tokenizer.json laid out like Llama 2's on a few lines, with `tokenizers` itself."""
    trained = tokenizers.Tokenizer(models.BPE())
    # As SentencePiece trains: several spaces may be one token, but no blank stands inside a word.
    trained.pre_tokenizer = pre_tokenizers.Split(
        tokenizers.Regex(rf"{METASPACE}*[^{METASPACE}\s]*|\s"), "isolated"
    )
    lines = [METASPACE + line.replace(" ", METASPACE) for line in TRAINING_TEXT]
    trained.train_from_iterator(
        lines, trainers.BpeTrainer(vocab_size=120, show_progress=False, special_tokens=[])
    )
    learnt = json.loads(trained.to_str())["model"]
    control = [*SPECIALS, "<unk>", "<s>", "</s>"]
    words = sorted(learnt["vocab"], key=learnt["vocab"].__getitem__)
    words = [w for w in words if w not in ("\n", "\r", "\t", "字")]  # left to the byte tokens
    vocab = {token: i for i, token in enumerate([*control, *BYTE_TOKENS, *words])}
    whole = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": vocab[text], "content": text, "special": True} | whole for text in control
        ],
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": None,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": vocab,
            "merges": [m for m in learnt["merges"] if {*m, "".join(m)} <= vocab.keys()],
        },
    } | DUMMY_PREFIX


def write_sentencepiece(path: Path, spec: dict[str, Any], **changes: Any) -> Path:
    """Write `spec` as SentencePiece would, with the message class that transformers brings.

    changes: fields of the trainer's and normalizer's settings, by their names.
    """
    from transformers.utils import sentencepiece_model_pb2_new as pb2

    model = pb2.ModelProto()
    kinds = pb2.ModelProto.SentencePiece
    ranks = {"".join(merge): -float(i) for i, merge in enumerate(spec["model"]["merges"])}
    added = {token["content"] for token in spec["added_tokens"]}
    for token in sorted(spec["model"]["vocab"], key=spec["model"]["vocab"].__getitem__):
        kind, score = kinds.NORMAL, ranks.get(token, -1e6)
        if token in added:
            kind, score = (kinds.UNKNOWN if token == "<unk>" else kinds.CONTROL), 0.0
        elif token in BYTE_TOKENS:
            kind, score = kinds.BYTE, 0.0
        model.pieces.add(piece=token, score=score, type=kind)
    trainer = {"model_type": pb2.TrainerSpec.BPE, "byte_fallback": True}
    trainer |= {"bos_id": spec["model"]["vocab"]["<s>"], "eos_id": spec["model"]["vocab"]["</s>"]}
    normalizer: dict[str, Any] = {"name": "identity", "remove_extra_whitespaces": False}
    for name, value in (trainer | normalizer | changes).items():
        part = model.trainer_spec if hasattr(model.trainer_spec, name) else model.normalizer_spec
        setattr(part, name, value)
    path.write_bytes(model.SerializeToString())
    return path
