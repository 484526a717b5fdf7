from __future__ import annotations

import pydoc_data.topics
import random
from dataclasses import fields
from pathlib import Path

import pytest

from lalte.retrofit.conversation import conversational_fact
from lalte.retrofit.corpus import lines, read_corpus
from lalte.retrofit.data import NO_FACT, StreamWriter
from lalte.retrofit.facts import draw_fact, draw_personal_fact
from lalte.retrofit.voices import EVALUATION_VOICES, TRAINING_VOICES
from lalte.retrofit.words import EVALUATION_WORDS, TRAINING_WORDS, Words
from lalte.text import Role
from retrofit.wordings import all_templates, shape_of


def test_training_and_evaluation_share_no_wording():
    training = {shape_of(template) for template in all_templates(TRAINING_VOICES)}
    evaluation = {shape_of(template) for template in all_templates(EVALUATION_VOICES)}
    assert training & evaluation <= {""}


def test_training_and_evaluation_share_no_words():
    for pool in (field.name for field in fields(Words)):
        training, evaluation = getattr(TRAINING_WORDS, pool), getattr(EVALUATION_WORDS, pool)
        assert len(training) > len(evaluation) > 0
        assert not set(training) & set(evaluation)


@pytest.mark.parametrize("superseded", [False, True])
def test_a_conversational_fact_is_told_and_can_be_asked_for(superseded):
    facts = [conversational_fact(1, index, superseded=superseded) for index in range(200)]
    assert facts == [conversational_fact(1, index, superseded=superseded) for index in range(200)]
    assert len(set(facts)) > 190
    for fact in facts:
        assert len(fact.tellings) == 1 + superseded
        assert (fact.old is not None) == superseded
        for telling in fact.tellings:
            assert [role for role, _ in telling] == [Role.USER, Role.ASSISTANT]
        assert fact.value in fact.tellings[-1][0][1]
        assert fact.value not in fact.question + fact.reply_begins
        assert not any("{" in text for telling in fact.tellings for _, text in telling)
        if fact.old is not None:
            assert fact.old in fact.tellings[0][0][1]
            assert fact.value not in fact.tellings[0][0][1]
            assert fact.old not in fact.value


@pytest.mark.parametrize("voices", [TRAINING_VOICES, EVALUATION_VOICES])
def test_every_wording_can_be_filled(voices):
    rng = random.Random(20)
    for updated in (False, True):
        for draw in (draw_fact, draw_personal_fact):
            for _ in range(300):
                fact = draw(rng, voices, updated=updated)
                templates = fact.templates
                told = templates.updates if updated else templates.statements + templates.turns
                fields = {"who": fact.who, "what": fact.what, "value": fact.value}
                for template in told:
                    assert fact.value in template.format(old=fact.old, **fields)
                for question, reply in templates.questions:
                    assert fact.value not in question.format(**fields)
                    assert fact.value in reply.format(**fields)


def test_no_two_facts_of_a_stream_are_about_the_same(writer: StreamWriter):
    rng = random.Random(20)
    for _ in range(50):
        facts = writer._draw_facts(rng, in_document=False)
        assert len({fact.about for fact in facts}) == len(facts)


def test_streams_are_made_of_all_kinds_of_text(writer: StreamWriter, corpus):
    """Documents, dialogues and conversations; facts in each, and in ordinary streams none."""
    streams = [writer.write(9, index) for index in range(40)]
    assert all(bool((stream.fact != NO_FACT).any()) for stream in streams)
    texts = [writer._tokenizer.decode(s.tokens[: s.told].tolist()) for s in streams]
    code = [any(line in text for text in texts) for line in ("    def ", "    return ")]
    assert any(code)
    assert any("over the hill" in text for text in texts)
    assert any("Which town do you like?" in text for text in texts)


def test_references_are_split_and_without_what_the_demo_streams(data: Path):
    parts = [read_corpus(data, ["2"], held_out=held_out).references for held_out in (False, True)]
    assert len(parts[0]) > len(parts[1]) > 0
    assert not set(parts[0]) & set(parts[1])
    demo = {line for text in pydoc_data.topics.topics.values() for line in lines(text)}
    for texts in parts:
        found = {line for text in texts for line in lines(text) if len(line) > 60}
        assert len(found & demo) < 0.001 * len(found)
