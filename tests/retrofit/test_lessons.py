"""What is distilled on: three kinds of sequences, and replies that the teacher wrote itself."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch

from lalte.checkpoints.load import LoadedModel
from lalte.config import FullConfig
from lalte.evaluation.instructions import read_instructions
from lalte.model import LaLTE
from lalte.retrofit.corpus import Corpus
from lalte.retrofit.data import StreamShape, StreamWriter
from lalte.retrofit.lessons import Lessons
from lalte.retrofit.plain_text import PlainText
from lalte.retrofit.replies import REPLIES_FILE, draw_request, write_replies
from lalte.retrofit.voices import TRAINING_VOICES
from lalte.text import Role

LENGTH = 256


def lessons(loaded: LoadedModel, corpus: Corpus, memory: float, chat: float) -> Lessons:
    turns, tokenizer = loaded.turn_format, loaded.tokenizer
    streams = StreamWriter(corpus, TRAINING_VOICES, tokenizer, turns, StreamShape(150, (1, 2)))
    text = PlainText(corpus, tokenizer, turns)
    return Lessons(text, streams, [[7, 8, 9], [10, 11]], turns, memory, chat)


def test_each_sequence_is_of_one_kind_and_a_function_of_seed_and_index(
    loaded: LoadedModel, corpus: Corpus
):
    mixed = lessons(loaded, corpus, 0.3, 0.3)
    alone = [lessons(loaded, corpus, *shares) for shares in ((0, 0), (1, 0), (0, 1))]
    of_kind = [0, 0, 0]
    for index in range(60):
        tokens = mixed.write(1, index, LENGTH)
        assert tokens.shape == (LENGTH,)
        assert torch.equal(tokens, mixed.write(1, index, LENGTH))
        same = [torch.equal(tokens, each.write(1, index, LENGTH)) for each in alone]
        assert sum(same) == 1
        of_kind[same.index(True)] += 1
    assert min(of_kind) > 5, of_kind


def test_requests_are_not_those_of_the_evaluation():
    drawn = [draw_request(1, index) for index in range(500)]
    assert len(set(drawn)) > 400
    assert not any("{" in text for text in drawn if "JSON" not in text)
    assert not set(drawn) & set(read_instructions())


@torch.no_grad()
def test_replies_are_the_teachers_and_are_written_once(
    loaded: LoadedModel, tmp_path: Path, monkeypatch
):
    replies = write_replies(loaded, 1, 3, 6, tmp_path)
    config = loaded.config
    teacher = LaLTE(replace(config, layers=(FullConfig(),) * len(config.layers)), torch.float32)
    weights = loaded.model.state_dict()
    teacher.load_state_dict({n: weights[n] for n in teacher.state_dict()})
    turns = loaded.turn_format
    close = turns.close(Role.ASSISTANT)
    for index, ids in enumerate(replies):
        asked = turns.open(Role.USER) + loaded.tokenizer.encode_plain(draw_request(1, index))
        asked += turns.close(Role.USER) + turns.reply_prefix
        assert ids[: len(asked)] == asked
        reply = ids[len(asked) : len(ids) - len(close)]
        assert 0 < len(reply) <= 6
        begun = turns.start(Role.USER)
        logits = teacher.logits(torch.tensor(begun + asked + reply)[None])[0]
        expected = logits[len(begun + asked) - 1 : -1]
        chosen = expected.gather(1, torch.tensor(reply)[:, None])[:, 0]
        torch.testing.assert_close(chosen, expected.max(dim=1).values, atol=0.05, rtol=0)

    monkeypatch.setattr("lalte.retrofit.replies._answer", None)
    assert write_replies(loaded, 1, 2, 6, tmp_path) == replies[:2]
    assert len([json.loads(x) for x in (tmp_path / REPLIES_FILE).read_text().splitlines()]) == 3
