from __future__ import annotations

import pytest
import torch

from lalte.checkpoints.load import LoadedModel
from lalte.evaluation import variants
from lalte.evaluation.dense import DenseModel, DenseReader
from lalte.evaluation.drafts import Draft
from lalte.evaluation.errors import EvaluationError
from lalte.evaluation.reading import StateReader
from lalte.evaluation.samples import Question, Sample, Told
from lalte.evaluation.stream import Framing
from lalte.init import random_model
from lalte.presets import tiny_lalte
from lalte.state import StateSlots
from lalte.text import Role


def sample_of(words: int, *questions: Question) -> Sample:
    told = (
        Told(Role.USER, "they were there. " * words),
        Told(Role.ASSISTANT, "you know the day 4711"),
        Told(Role.USER, "and how many people would go"),
    )
    return Sample(told, questions)


QUESTIONS = tuple(
    Question(text, prefix, raw=raw, max_tokens=tokens)
    for text, prefix, raw, tokens in (
        ("what was it", "it was", False, 9),
        (" and then", "", True, 3),
        ("who knows the day", "", False, 14),
        ("when", "at the", False, 1),
        (" the first", " one", True, 12),
    )
)


def readers_text(loaded: LoadedModel):
    return loaded.tokenizer, loaded.turn_format


def test_replies_do_not_depend_on_how_many_are_written_together(exact: LoadedModel):
    memory = variants.as_it_is(exact.model)
    alone = StateReader(memory, *readers_text(exact), lanes=1).answer(sample_of(20, *QUESTIONS))
    for lanes in (2, 3, 8):
        reader = StateReader(memory, *readers_text(exact), lanes=lanes)
        assert reader.answer(sample_of(20, *QUESTIONS)) == alone
        assert reader.answer(sample_of(3, *QUESTIONS)) != alone
        assert reader.answer(sample_of(20, *QUESTIONS)) == alone
    assert {len(reply.ids) for reply in alone} > {3, 1}


@pytest.mark.parametrize("words", [0, 2, 30])
def test_full_attention_replies_as_the_model_of_full_layers_does(exact: LoadedModel, words: int):
    model = variants.full_attention(exact.model)
    framing = Framing(*readers_text(exact))
    sample = sample_of(words, *QUESTIONS) if words else Sample((), QUESTIONS)
    replies = DenseReader(model, *readers_text(exact)).answer(sample)
    for question, reply in zip(QUESTIONS, replies, strict=True):
        ids = framing.stream(sample.told) + framing.question(question, started=bool(sample.told))
        written: list[int] = []
        while len(written) < question.max_tokens:
            token = int(model.logits(torch.tensor([ids + written]))[0, -1].argmax())
            if token in exact.turn_format.stop_ids:
                break
            written.append(token)
        assert list(reply.ids) == written
        assert reply.text == exact.tokenizer.decode(written)


def test_a_dense_pass_in_pieces_is_one_pass(exact: LoadedModel):
    model = variants.full_attention(exact.model)
    ids = torch.randint(0, 500, (70,), generator=torch.Generator().manual_seed(1)).tolist()
    whole = model.logits(torch.tensor([ids]))[0]
    dense = DenseModel(model)
    list(dense.read(ids[:33]))
    list(dense.read([5, 6, 7]))
    dense.length = 33  # forgets the three
    found = dense.logits(torch.cat(list(dense.read(ids[33:]))))
    torch.testing.assert_close(found, whole[33:], atol=2e-4, rtol=1e-4)


def test_full_attention_needs_attention(loaded: LoadedModel):
    recurrent = random_model(tiny_lalte(("gdn", "lte")))
    with pytest.raises(EvaluationError, match="layer 0 is a gdn"):
        variants.full_attention(recurrent)
    with pytest.raises(EvaluationError, match="layer 0 is a gdn"):
        DenseReader(recurrent, *readers_text(loaded))


@pytest.mark.parametrize("words_behind", [200, 10, 2])
def test_kept_is_what_the_state_holds(loaded: LoadedModel, words_behind: int):
    text = f"{'you know the day ' * 20}4711{' they were there' * words_behind}"
    sample = Sample((Told(Role.RAW, text),), (Question("what", value="4711", max_tokens=2),))
    memory = variants.as_it_is(loaded.model)
    (reply,) = StateReader(memory, *readers_text(loaded)).answer(sample)
    framing = Framing(*readers_text(loaded))
    ids = framing.stream(sample.told)
    positions = set(framing.value_positions(ids, "4711"))
    assert loaded.tokenizer.decode([ids[p] for p in sorted(positions)]) == "4711"

    slots = StateSlots.allocate(loaded.config, 1, loaded.model.dtype)
    whole = len(ids) - len(ids) % 8
    loaded.model.absorb(torch.tensor([ids[:whole]]), [slots.view(0)])
    shares: dict[int, list[float]] = {}
    for kept in slots.retained(0):
        held = set(kept.positions) | set(range(whole - 20, len(ids)))
        shares.setdefault(kept.layer, []).append(len(positions & held) / len(positions))
    assert reply.kept == tuple(tuple(shares[layer]) for layer in sorted(shares))


def draft_of(loaded: LoadedModel, question: Question, text: str) -> tuple[str, int]:
    """What is kept of a reply, and how many tokens were asked for."""
    draft = Draft(0, question, loaded.tokenizer, loaded.turn_format.stop_ids)
    ids = [*loaded.tokenizer.encode_plain(text), *loaded.turn_format.stop_ids]
    wanted = 0
    for token in ids:
        wanted += 1
        if not draft.push(token):
            break
    return draft.reply(0).text, wanted


def test_a_reply_ends_with_its_answer_its_stop_its_length_or_the_turn(loaded: LoadedModel):
    text = "it was AB7 then\nand more"
    tokens = len(loaded.tokenizer.encode_plain(text))
    long = Question("", max_tokens=99)
    assert draft_of(loaded, long, text) == (text, tokens + 1)
    assert draft_of(loaded, Question("", answers=("ab7",), max_tokens=99), text)[0] == "it was AB7"
    assert draft_of(loaded, Question("", stop=("\n",), max_tokens=99), text)[0] == "it was AB7 then"
    assert draft_of(loaded, Question("", max_tokens=2), text)[1] == 2
