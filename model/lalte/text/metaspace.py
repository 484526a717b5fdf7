"""SentencePiece-like BPE (Llama 2, Mistral): a space is written as U+2581, the metaspace.

There are no pieces: merges work on the whole text, character by character, and a character that the
vocabulary lacks is written as byte tokens, <0x00> to <0xFF>.

Published tokenizers put a space in front of every text that they encode, the *dummy prefix*. Here
none is put: what is encoded is a piece of a stream, in whose middle a space that nobody wrote would
part a word, and whose bytes must be those of its tokens. So a turn that begins "Paris" begins with
the token "Paris", and whoever wants the one for " Paris" writes the space.

A metaspace in the text itself is written as its three byte tokens, where SentencePiece makes a
space of it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from lalte.text.errors import TokenizerError
from lalte.text.spec import added_texts, steps

if TYPE_CHECKING:
    import tokenizers

METASPACE = "\u2581"
BYTE_TOKENS = tuple(f"<0x{byte:02X}>" for byte in range(256))

_REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": METASPACE}
_PREPEND = {"type": "Prepend", "prepend": METASPACE}

_BLANK_INSIDE = re.compile(r"(?<=\S)\s")


def is_metaspace(spec: dict[str, Any]) -> bool:
    """Whether a tokenizer.json writes spaces so, be it as normalizer or as pre-tokenizer."""
    parts = [*steps(spec.get("normalizer")), *steps(spec.get("pre_tokenizer"))]
    return any(part == _REPLACE or part.get("type") == "Metaspace" for part in parts)


class Metaspace:
    """Writes text with metaspaces and byte tokens. spec: the tokenizer.json to build from."""

    def __init__(self, spec: dict[str, Any]) -> None:
        """Raises TokenizerError where text could not be told from its tokens."""
        model = spec["model"]
        vocab: dict[str, int] = model.get("vocab", {})
        if not model.get("byte_fallback") or any(token not in vocab for token in BYTE_TOKENS):
            raise TokenizerError(
                "the vocabulary has no byte fallback (byte_fallback and the tokens <0x00> to "
                "<0xFF>), so it cannot write every text"
            )
        for name in ("continuing_subword_prefix", "end_of_word_suffix"):
            if model.get(name):
                raise TokenizerError(f"{name} {model[name]!r} is not supported with metaspaces")
        self._byte_of = {token: byte for byte, token in enumerate(BYTE_TOKENS)}
        self._written_metaspace = [vocab[BYTE_TOKENS[byte]] for byte in METASPACE.encode()]
        # Neither byte tokens nor special ones are text that merges may make, or go on from.
        reserved = added_texts(spec) | self._byte_of.keys()
        self._blanks_inside = {
            blank
            for token in vocab.keys() - reserved
            for blank in _BLANK_INSIDE.findall(token.replace(METASPACE, " "))
        }
        self.spec = spec | {
            "normalizer": _REPLACE,
            "pre_tokenizer": _splitting(spec),
            "model": model | {"merges": _merges_apart_from(reserved, model.get("merges", []))},
        }

    def token_bytes(self, token: str) -> bytes:
        """Return the bytes that a token's text stands for."""
        byte = self._byte_of.get(token)
        return token.replace(METASPACE, " ").encode() if byte is None else bytes([byte])

    def encode(self, backend: tokenizers.Tokenizer, text: str) -> list[int]:
        """Encode plain text."""
        ids: list[int] = []
        for i, part in enumerate(text.split(METASPACE)):
            if i:
                ids += self._written_metaspace
            ids += backend.encode(part, add_special_tokens=False).ids
        return ids

    def starts_a_piece(self, _backend: tokenizers.Tokenizer, blank: str) -> bool:
        """Whether no token holds `blank` behind a character that is none.

        Then no merge reaches over such a place, and both sides are encoded as by themselves.
        """
        return blank not in self._blanks_inside


def _splitting(spec: dict[str, Any]) -> dict[str, Any] | None:
    """Return the pre-tokenizer without its dummy prefix; None where merges may join spaces.

    Raises TokenizerError for a step that alters text, or one that we do not know.
    """
    for step in steps(spec.get("normalizer")):
        if step not in (_REPLACE, _PREPEND):
            raise TokenizerError(
                f"the normalizer {step.get('type')!r} alters text, so tokens would no longer be "
                "the text that was sent; only spaces as metaspaces are supported"
            )
    splits = False
    for step in steps(spec.get("pre_tokenizer")):
        if step.get("type") != "Metaspace" or step.get("replacement") != METASPACE:
            raise TokenizerError(
                f"the pre-tokenizer {step.get('type')!r} is not supported beside metaspaces"
            )
        splits |= bool(step.get("split", True))
    if not splits:
        return None
    return {
        "type": "Metaspace",
        "replacement": METASPACE,
        "prepend_scheme": "never",
        "split": True,
    }


def _merges_apart_from(reserved: set[str], merges: list[Any]) -> list[list[str]]:
    """Leave out merges of tokens that are `reserved`, or into one. Older files join the two."""
    pairs = [merge.split(" ") if isinstance(merge, str) else list(merge) for merge in merges]
    return [pair for pair in pairs if reserved.isdisjoint({*pair, "".join(pair)})]
