"""A BPE tokenizer over the `tokenizers` library; client text stays apart from markup.

Two ways of writing text in tokens are known: bytes as printable characters (`byte_level`), and
spaces as metaspaces with byte tokens for what is rare (`metaspace`). In both, the bytes of a text's
tokens are exactly the text. Special tokens are no product of the merges; they are recognised by a
separate pass over the text. Leaving that pass out is what keeps a client's "<|im_end|>" plain text.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Protocol

import tokenizers

from lalte.text.byte_level import REPLACEMENT, ByteLevel
from lalte.text.errors import SpecialTokenMissing, TokenizerError
from lalte.text.metaspace import Metaspace, is_metaspace
from lalte.text.spec import steps

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

TOKENIZER_FILE = "tokenizer.json"


class Writing(Protocol):
    """How text is written in the characters of tokens."""

    spec: dict[str, Any]

    def token_bytes(self, token: str) -> bytes: ...

    def encode(self, backend: tokenizers.Tokenizer, text: str) -> list[int]: ...

    def starts_a_piece(self, backend: tokenizers.Tokenizer, blank: str) -> bool: ...


class Tokenizer:
    """Encodes plain text and trusted markup, decodes ids. Immutable; threads may share it."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self._writing = _writing(spec)
        spec = self._writing.spec
        self._special = {str(t["content"]): int(t["id"]) for t in spec.get("added_tokens", [])}
        self.special_ids = frozenset(self._special.values())
        self._marked = _backend(spec)
        self._plain = _backend(spec | {"added_tokens": []})
        self._bytes = self._bytes_of_ids()
        if self.decode(self.encode_plain(REPLACEMENT)) != REPLACEMENT:
            raise TokenizerError("the vocabulary cannot write U+FFFD; use one with every byte")
        self._check_specials_stay_plain()

    @classmethod
    def load(cls, folder: Path) -> Tokenizer:
        """Read `tokenizer.json` in `folder`. Raises TokenizerError."""
        path = folder / TOKENIZER_FILE
        if not path.is_file():
            raise TokenizerError(f"{path} is missing; convert or pull the model again")
        return cls.from_json(path.read_text(encoding="utf-8"))

    @classmethod
    def from_json(cls, text: str) -> Tokenizer:
        """Build from the text of a tokenizer.json. Raises TokenizerError."""
        try:
            spec = json.loads(text)
        except ValueError as error:
            raise TokenizerError(f"tokenizer.json is not JSON: {error}") from error
        if not isinstance(spec, dict) or not isinstance(spec.get("model"), dict):
            raise TokenizerError("tokenizer.json holds no tokenizer: it has no `model`")
        return cls(spec)

    @property
    def vocab_size(self) -> int:
        """One more than the largest token id."""
        return len(self._bytes)

    def encode_plain(self, text: str) -> list[int]:
        """Encode client text: never yields a special token."""
        return self._writing.encode(self._plain, text)

    def encode_marked(self, text: str) -> list[int]:
        """Encode trusted markup: special tokens are recognised. Never give it a client's text."""
        ids: list[int] = self._marked.encode(text, add_special_tokens=False).ids
        return ids

    def starts_a_piece(self, blank: str) -> bool:
        """Whether text may be cut before `blank`, where no whitespace precedes it.

        Both sides then have the tokens that they have as one text.
        """
        return self._writing.starts_a_piece(self._plain, blank)

    def special_id(self, text: str) -> int:
        """Look up a special token's id. Raises SpecialTokenMissing."""
        try:
            return self._special[text]
        except KeyError:
            raise SpecialTokenMissing(text, sorted(self._special)) from None

    def token_bytes(self, token: int) -> bytes:
        """Return the bytes a token stands for; empty for ids beyond the vocabulary."""
        return self._bytes[token] if 0 <= token < len(self._bytes) else b""

    def piece(self, token: int) -> str:
        r"""One token as a person should see it; bytes that are no whole character become `\xNN`."""
        return self.token_bytes(token).decode("utf-8", errors="backslashreplace")

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of `ids`: special tokens left out, invalid UTF-8 shown as U+FFFD."""
        text = b"".join(self.token_bytes(i) for i in ids if i not in self.special_ids)
        return text.decode("utf-8", errors="replace")

    def _bytes_of_ids(self) -> list[bytes]:
        vocab: dict[str, int] = self._marked.get_vocab(with_added_tokens=True)
        table = [b""] * (1 + max(vocab.values()))
        for text, token in vocab.items():
            special = text in self._special
            table[token] = text.encode() if special else self._writing.token_bytes(text)
        return table

    def _check_specials_stay_plain(self) -> None:
        for text in self._special:
            found = self.special_ids.intersection(self.encode_plain(text))
            if found:
                raise TokenizerError(
                    f"the merges build the special token {text!r} from plain text, so a client "
                    "could forge turns; this tokenizer cannot be served"
                )


def _backend(spec: dict[str, Any]) -> tokenizers.Tokenizer:
    """Build a `tokenizers` backend with nothing that adds, cuts or pads tokens behind our back."""
    model = spec["model"] | {"unk_token": None, "dropout": None}
    quiet = {"model": model, "post_processor": None, "truncation": None, "padding": None}
    try:
        return tokenizers.Tokenizer.from_str(json.dumps(spec | quiet))
    except Exception as error:  # the library raises nothing narrower
        raise TokenizerError(f"tokenizer.json was refused: {error}") from error


def _writing(spec: dict[str, Any]) -> Writing:
    if spec["model"].get("type") != "BPE":
        raise TokenizerError(
            f"tokenizer model {spec['model'].get('type')!r} is not supported; only BPE"
        )
    if any(step.get("type") == "ByteLevel" for step in steps(spec.get("pre_tokenizer"))):
        return ByteLevel(spec)
    if is_metaspace(spec):
        return Metaspace(spec)
    raise TokenizerError(
        "the tokenizer is neither byte-level (GPT-2, Llama 3) nor writes spaces as U+2581 "
        "(SentencePiece, Llama 2)"
    )
