"""Byte-level BPE (GPT-2): text as tokens' characters, one printable character for each byte."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lalte.text.errors import TokenizerError
from lalte.text.spec import added_texts, steps

if TYPE_CHECKING:
    import tokenizers

REPLACEMENT = "\ufffd"


def byte_alphabet() -> dict[int, str]:
    """GPT-2's bijection from bytes to printable characters.

    A byte that is a visible Latin-1 character stands for itself; the others take the code points
    from 256 on, in order.
    """
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = [byte for byte in range(256) if byte not in visible]
    table = {byte: chr(byte) for byte in visible}
    return table | {byte: chr(256 + i) for i, byte in enumerate(hidden)}


class ByteLevel:
    """Writes text in the byte alphabet. spec: the tokenizer.json to build from."""

    def __init__(self, spec: dict[str, Any]) -> None:
        """Raises TokenizerError where the pre-tokenizer adds a space."""
        byte_steps = [s for s in steps(spec.get("pre_tokenizer")) if s.get("type") == "ByteLevel"]
        if any(step.get("add_prefix_space") for step in byte_steps):
            raise TokenizerError(
                "the byte-level pre-tokenizer adds a space in front of every text, so text cannot "
                "be encoded in pieces; set its add_prefix_space to false"
            )
        self.spec = spec
        self._byte_of = {char: byte for byte, char in byte_alphabet().items()}
        written = spec["model"].get("vocab", {}).keys() - added_texts(spec)
        self._unknown_bytes = frozenset(
            byte for char, byte in self._byte_of.items() if char not in written
        )

    def token_bytes(self, token: str) -> bytes:
        """Return the bytes that a token's text stands for. Raises TokenizerError."""
        try:
            return bytes(self._byte_of[char] for char in token)
        except KeyError:
            raise TokenizerError(
                f"the token {token!r} is not written in the byte-level alphabet"
            ) from None

    def encode(self, backend: tokenizers.Tokenizer, text: str) -> list[int]:
        """Encode plain text.

        A character with a byte that the vocabulary cannot write (SmolLM2's lacks six control
        characters and the unassigned planes 4 to 11) is read as U+FFFD rather than dropped.
        """
        ids: list[int] = backend.encode(self._writable(text), add_special_tokens=False).ids
        return ids

    def _writable(self, text: str) -> str:
        if self._unknown_bytes.isdisjoint(text.encode()):
            return text
        return "".join(
            c if self._unknown_bytes.isdisjoint(c.encode()) else REPLACEMENT for c in text
        )

    def starts_a_piece(self, backend: tokenizers.Tokenizer, blank: str) -> bool:
        """Whether cutting before `blank` leaves the pre-tokenizer's pieces as they were.

        It holds for all four blanks with GPT-2's pattern; Llama 3's joins punctuation and a
        following line break, so only the space and the tab are boundaries there.
        """
        pre_tokenizer: Any = backend.pre_tokenizer

        def pieces(text: str) -> list[str]:
            return [piece for piece, _ in pre_tokenizer.pre_tokenize_str(text)]

        lefts = ("a", "1", ".", "};", "don't", "é", "字", "🙂", "_", "it's")
        rights = ("", "b", "2", " b", "\n", "\n\nb", ".", "'s", "\t x", "字")
        return all(
            pieces(left + blank + right) == pieces(left) + pieces(blank + right)
            for left in lefts
            for right in rights
        )
