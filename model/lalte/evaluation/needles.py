"""RULER's single-needle tasks (arXiv 2404.06654) over text that nothing was trained on.

S-NIAH-1 hides a number in a repeated sentence, 2 a number and 3 a UUID in running text. The text is
books' instead of essays'. In the memory form the context is streamed, and the question comes after
it. Used for evaluation only.
"""

from __future__ import annotations

import random
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from lalte.retrofit.corpus import sentences

if TYPE_CHECKING:
    from lalte.retrofit.corpus import Corpus
    from lalte.text import Tokenizer

Task = Literal["single_1", "single_2", "single_3"]
TASKS: tuple[Task, ...] = ("single_1", "single_2", "single_3")

_NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
_NEEDLE = "One of the special magic {kind}s for {key} is: {value}."
_BEFORE = (
    "A special magic {kind} is hidden within the following text. Make sure to memorize it. I will "
    "quiz you about the {kind} afterwards.\n"
)
_QUESTION = "\nWhat is the special magic {kind} for {key} mentioned in the provided text?"
_PREFIX = " The special magic {kind} for {key} mentioned in the provided text is"
_ADJECTIVES = (
    "abundant", "bashful", "careless", "defiant", "earthy", "famous", "grumpy", "humble", "icky",
    "jolly", "kindly", "lively", "measly", "needy", "obedient", "puzzled", "righteous", "sleepy",
    "thoughtful", "uptight", "vast", "whispering", "yielding", "zealous",
)  # fmt: skip
_NOUNS = (
    "accordion", "backbone", "carpenter", "dresser", "elevator", "feedback", "gramophone", "hedge",
    "invoice", "jackal", "knuckle", "lollipop", "mustard", "notebook", "otter", "parcel", "quilt",
    "referee", "scooter", "tambourine", "umbrella", "vineyard", "waterfall", "yoyo",
)  # fmt: skip
_DEPTHS = 40
# Room for the reply, as RULER leaves it.
_REPLY_TOKENS = 128


@dataclass(frozen=True)
class Sample:
    """One haystack and its question.

    context: what is streamed; question: what is asked, the reply's prefix included. value: what the
    reply must contain. depth: where the needle stands, 0 to 100.
    """

    task: Task
    context: str
    question: str
    value: str
    depth: int


def write_sample(
    corpus: Corpus, tokenizer: Tokenizer, task: Task, length: int, seed: int, index: int
) -> Sample:
    """Write a sample whose prompt is as long as fits into `length` tokens with a reply."""
    rng = random.Random(f"needle {task} {length} {seed} {index}")  # noqa: S311  nothing secret
    kind = "uuid" if task == "single_3" else "number"
    key = f"{rng.choice(_ADJECTIVES)}-{rng.choice(_NOUNS)}"
    if task == "single_3":
        value = str(uuid.UUID(int=rng.getrandbits(128), version=4))
    else:
        value = str(rng.randrange(1_000_000, 10_000_000))
    needle = _NEEDLE.format(kind=kind, key=key, value=value)
    before = _BEFORE.format(kind=kind)
    question = _QUESTION.format(kind=kind, key=key) + _PREFIX.format(kind=kind, key=key)
    room = length - _REPLY_TOKENS - len(tokenizer.encode_plain(before + needle + question))
    pieces, joint = _haystack(corpus, tokenizer, task, room, rng)
    depth = round(rng.randrange(_DEPTHS) * 100 / (_DEPTHS - 1))
    pieces.insert(int(len(pieces) * depth / 100), needle)
    return Sample(task, before + joint.join(pieces), question, value, depth)


def _haystack(
    corpus: Corpus, tokenizer: Tokenizer, task: Task, room: int, rng: random.Random
) -> tuple[list[str], str]:
    """Take sentences of at most `room` tokens together, and what they are joined by."""
    if task == "single_1":
        return [_NOISE] * (room // (len(tokenizer.encode_plain(_NOISE)) + 1)), "\n"
    pieces = []
    for sentence in sentences(corpus.passage(rng, room * 6)):
        piece = sentence.strip()
        room -= len(tokenizer.encode_plain(f" {piece}"))
        if room < 0:
            break
        pieces.append(piece)
    return pieces, " "
