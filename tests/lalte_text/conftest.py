import json
from typing import Any

import pytest
import tokenizers
from hypothesis import HealthCheck, settings
from tokenizers import models, pre_tokenizers, trainers

from lalte.checkpoints.gguf_tokenizer import tokenizer_json
from lalte.text import Tokenizer
from lalte.text.byte_level import byte_alphabet
from lalte.text.metaspace import BYTE_TOKENS, METASPACE

# How fast an example runs is no promise: the machine may be busy.
settings.register_profile(
    "unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("unhurried")

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]

# Whole-word merges and merges that reach over digits, punctuation and blanks, so that a wrong cut
# shows in the ids.
MERGES = [
    "Ġ t", "Ġt h", "Ġth e", "Ġ a", "i n", "Ġ Ġ", "ĠĠ ĠĠ", "Ċ Ċ", "Ċ Ġ", "1 2", ". Ċ", "Ġ 1",
    "a b", "ab c", "Ã ©", "å Ń", "ð Ł", "Ġ Ċ", "ĉ ĉ",
]  # fmt: skip


def build(pre: str, missing: bytes = b"") -> Tokenizer:
    alphabet = [char for byte, char in byte_alphabet().items() if byte not in missing]
    tokens = [*SPECIALS, *alphabet, *(merge.replace(" ", "") for merge in MERGES)]
    return Tokenizer.from_json(
        tokenizer_json(
            "test",
            {
                "tokenizer.ggml.model": "gpt2",
                "tokenizer.ggml.pre": pre,
                "tokenizer.ggml.tokens": tokens,
                "tokenizer.ggml.token_type": [3] * 3 + [1] * (len(tokens) - 3),
                "tokenizer.ggml.merges": MERGES,
            },
        )
    )


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


@pytest.fixture(scope="session")
def metaspace_spec() -> dict[str, Any]:
    """A tokenizer.json laid out like Llama 2's, trained on a few lines by `tokenizers` itself."""
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


@pytest.fixture(scope="session", params=["gpt-2", "smollm", "normalizer", "metaspace", "split"])
def tokenizer(request: pytest.FixtureRequest, metaspace_spec: dict[str, Any]) -> Tokenizer:
    """One of every kind; the last three write spaces as metaspaces."""
    variants = {
        "normalizer": {},
        "metaspace": {"normalizer": None} | metaspace(split=False),
        "split": {"normalizer": None} | metaspace(split=True),
    }
    if request.param not in variants:
        return build(request.param)
    return Tokenizer.from_json(json.dumps(metaspace_spec | variants[request.param]))


@pytest.fixture(scope="session")
def gappy_tokenizer() -> Tokenizer:
    """Like SmolLM2's: some bytes have no token."""
    return build("smollm", missing=b"\x04\x1d\xf1")
