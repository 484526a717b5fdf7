"""Documents with words of their own."""

import random

import pytest
import torch

from lalte.train.errors import TrainError
from lalte.train.topics import TopicTask

TASK = TopicTask(length=400, words=6, vocab_size=64)


def test_a_document_keeps_to_its_own_words_and_others_have_theirs():
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # noqa: T201
    generator = torch.Generator().manual_seed(seed)
    documents = set()
    for _ in range(4):
        inputs, targets = TASK.sample(generator)
        assert inputs.shape == targets.shape == (400,)
        assert torch.equal(inputs[1:], targets[:-1])
        own = set(inputs[inputs >= TASK.common].tolist())
        assert len(own) == TASK.words
        assert 0 < (inputs < TASK.common).float().mean() < 0.4
        documents.add(frozenset(own))
    assert len(documents) == 4


@pytest.mark.parametrize(("words", "vocab_size"), [(49, 64), (2, 3)])
def test_more_words_than_there_are_to_draw_is_refused(words: int, vocab_size: int):
    with pytest.raises(TrainError, match=f"{words} of a document's own"):
        TopicTask(10, words, vocab_size)
