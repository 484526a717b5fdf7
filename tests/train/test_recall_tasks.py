"""Every question of a synthetic sequence has its answer earlier in the sequence."""

from dataclasses import replace

import pytest
import torch

from lalte.train.errors import TrainError
from lalte.train.tasks import IGNORED, RecallTask, TaskBatches, distances

MQAR = RecallTask("mqar", length=64, pairs=8, vocab_size=120)
NEEDLE = RecallTask("needle", length=80, pairs=4, vocab_size=120)


@pytest.mark.parametrize("task", [MQAR, NEEDLE], ids=["mqar", "needle"])
def test_each_key_is_asked_once_and_its_value_was_told(task: RecallTask):
    for seed in range(20):
        tokens, targets = task.sample(torch.Generator().manual_seed(seed))
        asked = (targets != IGNORED).nonzero().flatten().tolist()
        assert len(asked) == task.pairs
        told = tokens.tolist()
        for place in asked:
            before = told.index(told[place])
            assert before < place, f"seed {seed}"
            assert told[before + 1] == targets[place], f"seed {seed}"
        assert len({told[place] for place in asked}) == task.pairs


def test_needles_are_asked_at_the_very_end():
    _, targets = NEEDLE.sample(torch.Generator().manual_seed(1))
    first = int((targets != IGNORED).nonzero()[0])
    assert first == NEEDLE.length - NEEDLE.pairs


@pytest.mark.parametrize("task", [MQAR, NEEDLE], ids=["mqar", "needle"])
def test_with_more_questions_than_pairs_every_key_is_asked_again(task: RecallTask):
    dense = replace(task, questions=3 * task.pairs + 1)
    for seed in range(20):
        tokens, targets = dense.sample(torch.Generator().manual_seed(seed))
        keys = tokens[targets != IGNORED].tolist()
        assert len(keys) == 3 * task.pairs + 1
        assert {keys.count(key) for key in keys} <= {3, 4}, f"seed {seed}"
        answers = set(zip(keys, targets[targets != IGNORED].tolist(), strict=True))
        assert len(answers) == task.pairs, f"seed {seed}"


def test_a_question_is_as_far_from_its_answer_as_its_key_from_where_it_was_told():
    assert distances(torch.tensor([5, 9, 7, 5, 7, 7])).tolist() == [0, 0, 0, 3, 2, 3]
    tokens, targets = NEEDLE.sample(torch.Generator().manual_seed(2))
    for place in (targets != IGNORED).nonzero().flatten():
        told = place - distances(tokens)[place]
        assert tokens[told] == tokens[place]
        assert tokens[told + 1] == targets[place]


def test_batches_are_a_function_of_seed_and_number():
    one, two = TaskBatches(MQAR, 3), TaskBatches(MQAR, 3)
    assert torch.equal(one.batch(8, range(4))[0][2], two.batch(10, [0])[0][0])
    assert not torch.equal(one.batch(8, [0])[0], TaskBatches(MQAR, 4).batch(8, [0])[0])


def test_a_task_that_does_not_fit_its_length_or_vocabulary_is_refused():
    with pytest.raises(TrainError, match="8 questions need a length of at least 24"):
        RecallTask("mqar", length=23, pairs=8, vocab_size=120)
    with pytest.raises(TrainError, match="vocabulary"):
        RecallTask("needle", length=800, pairs=30, vocab_size=120)
