from __future__ import annotations

import pytest
import torch

from lalte.checkpoints.load import LoadedModel
from lalte.evaluation.needles import _BEFORE_MANY, _BEFORE_ONE, _NEEDLE, _PREFIX, _QUESTION
from lalte.retrofit.corpus import Corpus, read_corpus, sentences
from lalte.retrofit.data import NO_FACT, StreamWriter
from lalte.retrofit.errors import RetrofitError
from lalte.retrofit.voices import EVALUATION_VOICES, TRAINING_VOICES
from retrofit.wordings import all_templates, shape_of


def test_a_stream_is_a_function_of_seed_and_index(writer: StreamWriter):
    again, other, another = writer.write(5, 2), writer.write(5, 3), writer.write(6, 2)
    stream = writer.write(5, 2)
    assert torch.equal(stream.tokens, again.tokens)
    assert torch.equal(stream.fact, again.fact)
    assert torch.equal(stream.value, again.value)
    assert not torch.equal(stream.tokens, other.tokens)
    assert not torch.equal(stream.tokens, another.tokens)


def test_what_is_told_is_asked_and_marked(writer: StreamWriter, loaded: LoadedModel):
    for index in range(8):
        stream = writer.write(5, index)
        told, asked = slice(stream.told), slice(stream.told, None)
        numbers = set(stream.fact[stream.fact != NO_FACT].tolist())
        assert 2 <= len(numbers) <= 4
        for number in numbers:
            marked = (stream.fact == number) & stream.value
            value = loaded.tokenizer.decode(stream.tokens[told][marked[told]].tolist())
            answer = loaded.tokenizer.decode(stream.tokens[asked][marked[asked]].tolist())
            # An acknowledgement may say it again.
            assert value.strip().startswith(answer.strip())
            assert answer.strip()
        assert bool((stream.fact[told] == NO_FACT).any())


def test_no_benchmark_text_is_trained_on():
    needle = [shape_of(t) for t in (_NEEDLE, _BEFORE_ONE, _BEFORE_MANY, _QUESTION, _PREFIX)]
    for template in all_templates(TRAINING_VOICES) | all_templates(EVALUATION_VOICES):
        assert "magic" not in template
        assert shape_of(template) not in needle


def test_held_out_books_and_dialogues_are_not_in_the_training_part(data, corpus: Corpus):
    held_out = read_corpus(data, ["2"], held_out=True)
    assert len(held_out.books) == 1
    assert "of book 2" in held_out.books[0]
    assert all("of book 2" not in book for book in corpus.books)
    assert not set(held_out.dialogues) & set(corpus.dialogues)


def test_an_unknown_book_cannot_be_held_out(data):
    with pytest.raises(RetrofitError, match="no books"):
        read_corpus(data, ["99"], held_out=False)


def test_sentences_lose_nothing():
    text = 'One. “Two?” three said. "Four!" Five 5.5 six.\n\nSeven'
    assert "".join(sentences(text)) == text
    assert len(sentences(text)) >= 4
