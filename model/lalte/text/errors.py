"""The errors of text handling: facts in fields, and a text that says what to do next."""

from __future__ import annotations


class TextError(Exception):
    """Base of every error that `lalte.text` raises."""


class TokenizerError(TextError):
    """A tokenizer.json cannot be used; `reason` says why."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class SpecialTokenMissing(TextError):
    """The tokenizer has no special token `token`."""

    def __init__(self, token: str, known: list[str]) -> None:
        self.token = token
        self.known = known
        super().__init__(f"the tokenizer has no special token {token!r}; it has {known}")


class InvalidUtf8(TextError):
    """The bytes are not UTF-8.

    `offset` counts bytes from the start of the piece that was being taken; it is negative when the
    broken sequence began in the piece before.
    """

    def __init__(self, offset: int, reason: str) -> None:
        self.offset = offset
        self.reason = reason
        super().__init__(
            f"invalid UTF-8 at byte {offset} of this piece ({reason}); send text encoded as UTF-8"
        )


class TurnFormatError(TextError):
    """A chat template and the turn format that was derived from it do not agree."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"cannot derive a turn format from the chat template: {reason}")
