import pytest
from hypothesis import HealthCheck, settings

from lalte.checkpoints.gguf_tokenizer import tokenizer_json
from lalte.text import Tokenizer
from lalte.text.tokenizer import byte_alphabet

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


@pytest.fixture(scope="session", params=["gpt-2", "smollm"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return build(request.param)


@pytest.fixture(scope="session")
def gappy_tokenizer() -> Tokenizer:
    """Like SmolLM2's: some bytes have no token."""
    return build("smollm", missing=b"\x04\x1d\xf1")
