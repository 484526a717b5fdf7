"""Between bytes and token ids: tokenizer, streaming encoder and decoder, turns, stop strings.

Nothing here imports torch, so that the daemon's front half can use it beside the event loop. It may
import only `tokenizers`, jinja2 (inside `chat_template`) and the standard library.
"""

from lalte.text.chat_template import derive_turn_format
from lalte.text.decoding import StreamDecoder
from lalte.text.errors import (
    InvalidUtf8,
    SpecialTokenMissing,
    TextError,
    TokenizerError,
    TurnFormatError,
)
from lalte.text.stops import StopStrings
from lalte.text.streaming import RUN_LIMIT, StreamEncoder, Taken
from lalte.text.tokenizer import Tokenizer
from lalte.text.turns import Role, TurnFormat

__all__ = [
    "RUN_LIMIT",
    "InvalidUtf8",
    "Role",
    "SpecialTokenMissing",
    "StopStrings",
    "StreamDecoder",
    "StreamEncoder",
    "Taken",
    "TextError",
    "Tokenizer",
    "TokenizerError",
    "TurnFormat",
    "TurnFormatError",
    "derive_turn_format",
]
