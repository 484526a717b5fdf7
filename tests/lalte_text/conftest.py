import json
from typing import Any

import pytest

from harness.metaspace import SPECIALS, metaspace, train_metaspace_spec
from lalte.checkpoints.gguf_tokenizer import tokenizer_json
from lalte.text import Tokenizer
from lalte.text.byte_level import byte_alphabet

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


@pytest.fixture(scope="session")
def metaspace_spec() -> dict[str, Any]:
    """A tokenizer.json laid out like Llama 2's."""
    return train_metaspace_spec()


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
