"""A byte-level BPE tokenizer over the `tokenizers` library; client text stays apart from markup.

Byte-level BPE (GPT-2): UTF-8 bytes are written as 256 printable characters, cut into pieces by a
pre-tokenizer, and merged inside each piece. Special tokens are no product of the merges; they are
recognised by a separate pass over the text. Leaving that pass out is what keeps a client's
"<|im_end|>" plain text.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import tokenizers

from lalte.text.errors import SpecialTokenMissing, TokenizerError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

REPLACEMENT = "\ufffd"
TOKENIZER_FILE = "tokenizer.json"


def byte_alphabet() -> dict[int, str]:
    """GPT-2's bijection from bytes to printable characters.

    A byte that is a visible Latin-1 character stands for itself; the others take the code points
    from 256 on, in order.
    """
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = [byte for byte in range(256) if byte not in visible]
    table = {byte: chr(byte) for byte in visible}
    return table | {byte: chr(256 + i) for i, byte in enumerate(hidden)}


class Tokenizer:
    """Encodes plain text and trusted markup, decodes ids. Immutable; threads may share it."""

    def __init__(self, spec: dict[str, Any]) -> None:
        _require_byte_level(spec)
        self._special = {str(t["content"]): int(t["id"]) for t in spec.get("added_tokens", [])}
        self.special_ids = frozenset(self._special.values())
        self._marked = _backend(spec)
        self._plain = _backend(spec | {"added_tokens": []})
        self._pre_tokenizer: Any = self._plain.pre_tokenizer
        self._bytes = self._bytes_of_ids()
        self._unknown_bytes = frozenset(range(256)) - {
            b[0] for i, b in enumerate(self._bytes) if len(b) == 1 and i not in self.special_ids
        }
        if not self._unknown_bytes.isdisjoint(REPLACEMENT.encode()):
            raise TokenizerError("the vocabulary cannot write U+FFFD; use a byte-level vocabulary")
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
        """Encode client text: never yields a special token.

        A character with a byte that the vocabulary cannot write (SmolLM2's lacks six control
        characters and the unassigned planes 4 to 11) is read as U+FFFD rather than dropped.
        """
        ids: list[int] = self._plain.encode(self._writable(text), add_special_tokens=False).ids
        return ids

    def encode_marked(self, text: str) -> list[int]:
        """Encode trusted markup: special tokens are recognised. Never give it a client's text."""
        ids: list[int] = self._marked.encode(text, add_special_tokens=False).ids
        return ids

    def pieces(self, text: str) -> list[str]:
        """Cut `text` as the pre-tokenizer does; pieces are in the byte alphabet."""
        return [piece for piece, _ in self._pre_tokenizer.pre_tokenize_str(text)]

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

    def _writable(self, text: str) -> str:
        if self._unknown_bytes.isdisjoint(text.encode()):
            return text
        return "".join(
            c if self._unknown_bytes.isdisjoint(c.encode()) else REPLACEMENT for c in text
        )

    def _bytes_of_ids(self) -> list[bytes]:
        byte_of = {char: byte for byte, char in byte_alphabet().items()}
        vocab: dict[str, int] = self._marked.get_vocab(with_added_tokens=True)
        table = [b""] * (1 + max(vocab.values()))
        for text, token in vocab.items():
            if text in self._special:
                table[token] = text.encode()
            elif all(char in byte_of for char in text):
                table[token] = bytes(byte_of[char] for char in text)
            else:
                raise TokenizerError(
                    f"token {token} ({text!r}) is not written in the byte-level alphabet"
                )
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


def _require_byte_level(spec: dict[str, Any]) -> None:
    if spec["model"].get("type") != "BPE":
        raise TokenizerError(
            f"tokenizer model {spec['model'].get('type')!r} is not supported; only byte-level BPE"
        )
    steps = list(_steps(spec.get("pre_tokenizer"), "pretokenizers"))
    byte_level = [step for step in steps if step.get("type") == "ByteLevel"]
    if not byte_level or any(step.get("add_prefix_space") for step in byte_level):
        raise TokenizerError(
            "the pre-tokenizer is not byte-level without a prefix space, so text cannot be encoded "
            "in pieces; SentencePiece-style tokenizers are not supported"
        )


def _steps(component: dict[str, Any] | None, members: str) -> Iterator[dict[str, Any]]:
    if component is None:
        return
    if component.get("type") == "Sequence":
        for member in component[members]:
            yield from _steps(member, members)
    else:
        yield component
