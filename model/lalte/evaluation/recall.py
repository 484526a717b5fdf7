"""Multi-query associative recall in words (MQAR, arXiv 2312.04927).

A stream tells pairs of a key and a value, then goes on with other words up to its length; each key
is asked by itself, and the value must follow. Words are single tokens of the tokenizer.
"""

from __future__ import annotations

import random
import re
from typing import TYPE_CHECKING

from lalte.evaluation.errors import EvaluationError
from lalte.evaluation.samples import Question, Sample, Told
from lalte.text import Role

if TYPE_CHECKING:
    from lalte.text import Tokenizer

_WORD = re.compile(rb" [a-z]{2,}")


def write_recall(
    tokenizer: Tokenizer, length: int, seed: int, index: int, questions: int
) -> Sample:
    """Write a stream of `length` >= 4 tokens, of which an eighth are pairs.

    Raises EvaluationError where the tokenizer has too few words, or the questions are too many.
    """
    pairs = max(length // 16, 2)
    if questions > pairs:
        raise EvaluationError("mqar", f"{length} tokens hold {pairs} pairs, not {questions}")
    words = _words(tokenizer)
    if len(words) < 3 * pairs:
        raise EvaluationError("mqar", f"{pairs} pairs need {3 * pairs} words, not {len(words)}")
    rng = random.Random(f"mqar {length} {seed} {index}")  # noqa: S311  nothing secret
    drawn = rng.sample(words, k=2 * pairs)
    keys, values = drawn[:pairs], drawn[pairs:]
    used = set(drawn)
    others = [word for word in words if word not in used]
    text = "".join(key + value for key, value in zip(keys, values, strict=True))
    text += "".join(rng.choices(others, k=length - 2 * pairs))
    chosen = rng.sample(range(pairs), k=questions)
    return Sample(
        (Told(Role.RAW, text),),
        tuple(
            Question(keys[n], answers=(values[n],), depth=100 * 2 * n / length, max_tokens=1)
            for n in chosen
        ),
    )


def _words(tokenizer: Tokenizer) -> list[str]:
    """Every token that is a blank and a word of small letters, and that its text encodes to."""
    found = []
    for token in range(tokenizer.vocab_size):
        data = tokenizer.token_bytes(token)
        if _WORD.fullmatch(data) and tokenizer.encode_plain(data.decode()) == [token]:
            found.append(data.decode())
    return found
