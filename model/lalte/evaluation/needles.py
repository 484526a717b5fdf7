"""RULER's single-needle tasks (arXiv 2404.06654) over text that nothing was trained on.

S-NIAH-1 hides a number in a repeated sentence, 2 a number and 3 a UUID in running text, which is
books' instead of essays'. In the memory form the context is streamed, and the question comes after
it. A long stream may carry several needles with keys of their own, each asked by itself: that is
harder, and costs one reading of the stream.
"""

from __future__ import annotations

import random
import uuid
from typing import TYPE_CHECKING, Literal

from lalte.evaluation.prose import running_sentences
from lalte.evaluation.samples import Question, Sample, Told
from lalte.text import Role

if TYPE_CHECKING:
    from lalte.retrofit.corpus import Corpus
    from lalte.text import Tokenizer

NeedleTask = Literal["single_1", "single_2", "single_3"]
NEEDLE_TASKS: tuple[NeedleTask, ...] = ("single_1", "single_2", "single_3")

_NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
_NEEDLE = "One of the special magic {kind}s for {key} is: {value}."
_BEFORE_ONE = (
    "A special magic {kind} is hidden within the following text. Make sure to memorize it. I will "
    "quiz you about the {kind} afterwards.\n"
)
_BEFORE_MANY = (
    "Some special magic {kind}s are hidden within the following text. Make sure to memorize it. I "
    "will quiz you about the {kind}s afterwards.\n"
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
# Room for the reply, and its longest, as RULER has it.
_REPLY_TOKENS = 128


def write_needles(
    corpus: Corpus,
    tokenizer: Tokenizer,
    task: NeedleTask,
    length: int,
    seed: int,
    index: int,
    needles: int = 1,
    per_haystack: int = 1,
) -> Sample:
    """Write a sample whose prompt is as long as fits into `length` tokens with a reply.

    per_haystack: so many samples in a row have their needles in the same haystack.
    """
    rng = random.Random(f"needle {task} {length} {seed} {index} {needles}")  # noqa: S311
    hay_rng = rng
    if per_haystack > 1:
        haystack = index // per_haystack
        hay_rng = random.Random(f"haystack {task} {length} {seed} {haystack}")  # noqa: S311
    kind = "uuid" if task == "single_3" else "number"
    keys = rng.sample([f"{a}-{n}" for a in _ADJECTIVES for n in _NOUNS], k=needles)
    values = [_value(task, rng) for _ in keys]
    told = [_NEEDLE.format(kind=kind, key=k, value=v) for k, v in zip(keys, values, strict=True)]
    before = (_BEFORE_ONE if needles == 1 else _BEFORE_MANY).format(kind=kind)
    asked = [
        (_QUESTION.format(kind=kind, key=key), _PREFIX.format(kind=kind, key=key)) for key in keys
    ]
    needed = len(tokenizer.encode_plain(before + " ".join(told)))
    needed += max(len(tokenizer.encode_plain(question + prefix)) for question, prefix in asked)
    pieces, joint = _haystack(corpus, tokenizer, task, length - _REPLY_TOKENS - needed, hay_rng)
    depths = [round(place * 100 / (_DEPTHS - 1)) for place in rng.sample(range(_DEPTHS), k=needles)]
    hay = len(pieces)
    # The deepest first, so that each stands where it would stand alone.
    for depth, needle in sorted(zip(depths, told, strict=True), reverse=True):
        pieces.insert(int(hay * depth / 100), needle)
    shared = 0
    if per_haystack > 1:
        shared = len(before + joint.join(pieces[: int(hay * min(depths) / 100)]))
    questions = tuple(
        Question(
            question, prefix, answers=(value,), value=value, depth=depth, max_tokens=_REPLY_TOKENS
        )
        for (question, prefix), value, depth in zip(asked, values, depths, strict=True)
    )
    return Sample((Told(Role.RAW, before + joint.join(pieces)),), questions, shared)


def _value(task: NeedleTask, rng: random.Random) -> str:
    if task == "single_3":
        return str(uuid.UUID(int=rng.getrandbits(128), version=4))
    return str(rng.randrange(1_000_000, 10_000_000))


def _haystack(
    corpus: Corpus, tokenizer: Tokenizer, task: NeedleTask, room: int, rng: random.Random
) -> tuple[list[str], str]:
    """Take sentences of at most `room` tokens together, and what they are joined by."""
    if task == "single_1":
        return [_NOISE] * max(room // (len(tokenizer.encode_plain(_NOISE)) + 1), 0), "\n"
    pieces = []
    for sentence in running_sentences(corpus, rng):
        piece = sentence.strip()
        room -= len(tokenizer.encode_plain(f" {piece}"))
        if room < 0:
            break
        pieces.append(piece)
    return pieces, " "
