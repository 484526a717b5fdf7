from __future__ import annotations

import json
import lzma
import re

import pytest

from lalte.checkpoints.load import LoadedModel
from lalte.evaluation.errors import EvaluationError
from lalte.evaluation.instructions import read_instructions
from lalte.evaluation.needles import write_needles
from lalte.evaluation.prose import passage, running_sentences
from lalte.evaluation.samples import Question
from lalte.evaluation.stream import Framing
from lalte.evaluation.tasks import TASKS, Sources, make_task
from lalte.text import Role

ASKED = [name for name in TASKS if name not in ("perplexity", "completion")]


@pytest.mark.parametrize("name", ASKED)
def test_a_sample_is_a_function_of_its_arguments(name: str, sources: Sources):
    task = make_task(name, sources, per_stream=2)
    length = 3 if name == "documents" else 900
    once = task.write(length, 1, 0, 1)
    assert once == make_task(name, sources, per_stream=2).write(length, 1, 0, 1)
    assert once.questions
    assert once != task.write(length, 1, 1, 1)
    if name != "instructions":
        assert once != task.write(length, 2, 0, 1)


@pytest.mark.parametrize("name", ASKED)
def test_as_many_questions_are_asked_as_samples_are_wanted(name: str, sources: Sources):
    task = make_task(name, sources, per_stream=3)
    length = 4 if name == "documents" else 900
    plan = task.streams(length, 7)
    assert sum(plan) == 7
    for index, questions in enumerate(plan):
        assert len(task.write(length, 1, index, questions).questions) == questions


def test_an_unknown_task_is_refused(sources: Sources):
    with pytest.raises(EvaluationError, match="single_1"):
        make_task("single_4", sources)


@pytest.mark.parametrize("name", ["single_1", "single_2", "single_3"])
def test_a_needle_prompt_is_rulers_and_fits_its_length(
    name: str, sources: Sources, loaded: LoadedModel
):
    task = make_task(name, sources)
    for index in range(4):
        sample = task.write(1500, 1, index, 1)
        (told,), (question,) = sample.told, sample.questions
        prompt = loaded.tokenizer.encode_plain(told.text + question.text + question.prefix)
        assert 1000 < len(prompt) + 128 <= 1500
        assert told.role is Role.RAW
        kind = "uuid" if name == "single_3" else "number"
        found = re.findall(rf"One of the special magic {kind}s for (\S+) is: (\S+)\.", told.text)
        assert [value for _, value in found] == list(question.answers) == [question.value]
        key = found[0][0]
        assert question.text.endswith(f"magic {kind} for {key} mentioned in the provided text?")
        assert question.prefix.endswith(f"{key} mentioned in the provided text is")
        assert question.value not in question.text + question.prefix
        shape = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}" if kind == "uuid" else r"\d{7}"
        assert re.fullmatch(shape, question.value)


@pytest.mark.parametrize("name", ["single_1", "single_2"])
def test_a_needle_stands_at_its_depth(name: str, sources: Sources):
    for index in range(6):
        sample = make_task(name, sources, per_stream=3).write(3000, 1, index, 3)
        text = sample.told[0].text.partition("\n")[2]
        for question in sample.questions:
            place = 100 * text.index(question.value) / len(text)
            assert question.depth is not None
            assert abs(place - question.depth) < 12


def test_several_needles_have_keys_and_depths_of_their_own(sources: Sources):
    corpus, tokenizer = sources.corpus, sources.tokenizer
    sample = write_needles(corpus, tokenizer, "single_2", 6000, 1, 0, needles=10)
    assert len({question.text for question in sample.questions}) == 10
    assert len({question.depth for question in sample.questions}) == 10
    for question in sample.questions:
        assert sample.told[0].text.count(question.value) == 1


@pytest.mark.parametrize("name", ["single_1", "single_2", "single_3"])
def test_samples_of_one_haystack_part_where_their_needles_stand(name: str, sources: Sources):
    together, alone = (make_task(name, sources, per_haystack=n) for n in (3, 1))
    samples = [together.write(2000, 1, index, 1) for index in range(6)]
    for group in (samples[:3], samples[3:]):
        texts = [sample.told[0].text for sample in group]
        for sample, text in zip(group, texts, strict=True):
            for other, beside in zip(group, texts, strict=True):
                if other.shared >= sample.shared:
                    assert beside.startswith(text[: sample.shared])
            assert "One of the special magic" not in text[: sample.shared]
            assert text[sample.shared :].lstrip().startswith("One of the special magic")
        assert len({sample.questions[0].value for sample in group}) == 3
    hay = [sample.told[0].text[sample.shared :].partition(". ")[2] for sample in samples]
    assert (hay[0][-200:] == hay[3][-200:]) == (name == "single_1")
    assert alone.write(2000, 1, 0, 1).shared == 0


def test_only_streams_of_one_needle_share_a_haystack(sources: Sources):
    for name, per_stream in (("facts", 1), ("single_2", 2)):
        with pytest.raises(EvaluationError, match="cannot share a haystack"):
            make_task(name, sources, per_stream, per_haystack=2)


def test_running_text_goes_on_beyond_the_last_book(sources: Sources, loaded: LoadedModel):
    import random

    total = sum(map(len, sources.corpus.books))
    taken = 0
    for sentence in running_sentences(sources.corpus, random.Random(1)):
        taken += len(sentence)
        if taken > 3 * total:
            break
    ids = passage(sources.corpus, loaded.tokenizer, random.Random(1), 5000)
    assert len(ids) == 5000
    assert loaded.tokenizer.decode(ids) in "".join(sources.corpus.books * 4)


def test_facts_are_told_before_so_much_other_dialogue(sources: Sources, loaded: LoadedModel):
    framing = Framing(loaded.tokenizer, loaded.turn_format)
    for index in range(5):
        sample = make_task("facts", sources, per_stream=2).write(800, 1, index, 2)
        for question in sample.questions:
            tellings = [n for n, turn in enumerate(sample.told) if question.answers[0] in turn.text]
            assert tellings
            assert sample.told[tellings[0]].role is Role.USER
            behind = framing.stream(sample.told[tellings[-1] + 1 :])
            assert len(behind) >= 700  # a frame counts a little less than is assumed for it
            assert not question.raw


def test_what_supersedes_is_told_last(sources: Sources):
    for index in range(5):
        sample = make_task("superseded", sources, per_stream=2).write(300, 1, index, 2)
        texts = [turn.text for turn in sample.told if turn.role is Role.USER]
        for question in sample.questions:
            old = [n for n, text in enumerate(texts) if question.outdated in text]
            new = [n for n, text in enumerate(texts) if question.answers[0] in text]
            assert old[0] < new[0]


def test_facts_of_one_stream_are_about_different_things(sources: Sources):
    for index in range(10):
        sample = make_task("facts", sources, per_stream=6).write(100, 1, index, 6)
        assert len({question.text for question in sample.questions}) == 6


def test_the_same_facts_are_asked_at_every_distance(sources: Sources):
    task = make_task("facts", sources, per_stream=2)
    near, far = task.write(100, 1, 0, 2), task.write(900, 1, 0, 2)
    assert near.questions == far.questions
    assert near.told != far.told


def test_documents_answer_their_questions(sources: Sources):
    task = make_task("documents", sources)
    seen: set[str] = set()
    plan = task.streams(5, 9)
    assert plan == [5, 4]
    for index, questions in enumerate(plan):
        sample = task.write(5, 1, index, questions)
        assert len(sample.told) == 5
        text = " ".join(told.text for told in sample.told)
        assert all(answer in text for q in sample.questions for answer in q.answers)
        assert not seen & {told.text for told in sample.told}
        seen |= {told.text for told in sample.told}
    with pytest.raises(EvaluationError, match="12 paragraphs"):
        task.write(13, 1, 0, 1)


def test_a_recalled_value_follows_its_key_once(sources: Sources, loaded: LoadedModel):
    sample = make_task("mqar", sources, per_stream=4).write(128, 1, 0, 4)
    ids = loaded.tokenizer.encode_plain(sample.told[0].text)
    assert len(ids) == 128
    for question in sample.questions:
        (key,) = loaded.tokenizer.encode_plain(question.text)
        (value,) = loaded.tokenizer.encode_plain(question.answers[0])
        assert ids.count(key) == 1
        assert ids[ids.index(key) + 1] == value
    with pytest.raises(EvaluationError, match="8 pairs"):
        make_task("mqar", sources, per_stream=9).write(128, 1, 0, 9)


def test_completions_are_read_from_the_published_form(sources: Sources, tmp_path):
    rows = [
        {"text": "Title: A\nColour: red\n\nColour:", "value": " Red "},
        {"text": "The sea is wide. The sea is deep. It is very", "value": "blue"},
    ]
    path = tmp_path / "swde.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    packed = tmp_path / "swde.jsonl.xz"
    packed.write_bytes(lzma.compress(path.read_bytes()))
    for file in (path, packed):
        task = make_task("completion", Sources(sources.tokenizer, rows=file))
        first, second = task.write(0, 1, 0, 1), task.write(0, 1, 1, 1)
        assert (first.told[0].text, first.questions[0].text) == (
            "Title: A\nColour: red\n\n",
            "Colour:",
        )
        assert first.questions[0].is_right("it is red, he said")
        assert second.told[0].text + second.questions[0].text == rows[1]["text"]
        assert second.questions[0].text == "It is very"
    path.write_text('{"text": "no value"}')
    with pytest.raises(EvaluationError, match=r"swde\.jsonl: line 1"):
        make_task("completion", Sources(sources.tokenizer, rows=path)).write(0, 1, 0, 1)


def test_a_missing_text_is_named(sources: Sources, tmp_path):
    with pytest.raises(EvaluationError, match="--data"):
        make_task("single_2", Sources(sources.tokenizer)).write(500, 1, 0, 1)
    with pytest.raises(EvaluationError, match="--rows"):
        make_task("completion", Sources(sources.tokenizer)).write(0, 1, 0, 1)
    with pytest.raises(EvaluationError, match="squad_en"):
        make_task("documents", Sources(sources.tokenizer, tmp_path)).streams(1, 1)


def test_there_are_fifty_different_instructions():
    instructions = read_instructions()
    assert len(instructions) == len(set(instructions)) == 50


def test_a_reply_is_right_when_it_contains_an_answer_in_any_case():
    question = Question("who?", answers=("Ann Lee", "Lee"), outdated="Bob")
    assert question.is_right("it was ANN LEE then")
    assert question.is_right("bob, no: lee")
    assert not question.is_outdated("bob, no: lee")
    assert not question.is_right("Bo")
    assert question.is_outdated("it is BOB")
    assert not Question("who?", answers=("x",)).is_outdated("anything")
