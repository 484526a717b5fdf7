"""The default model against the original: transformers' Llama on the same weights."""

import functools
import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest
import regex
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from lalte.checkpoints.load import LoadedModel, load_model
from lalte.checkpoints.pull import GGUF_SHA256
from lalte.config import LocalGDNConfig, LTEConfig
from lalte.model import LaLTE
from lalte.names import llama_name_map
from lalte.state import StateSlots, nbytes
from lalte.text import Role, StreamEncoder
from lalte.text.byte_level import byte_alphabet

pytestmark = pytest.mark.weights


@pytest.fixture(scope="module")
def loaded(weights_folder: Path) -> LoadedModel:
    return load_model(weights_folder, dtype=torch.float32)


@pytest.fixture(scope="module")
def sparse(loaded: LoadedModel) -> LaLTE:
    """The same weights with LTE in every layer: attention within its window."""
    layer = next(x for x in loaded.config.layers if isinstance(x, LTEConfig))
    model = LaLTE(replace(loaded.config, layers=(layer,) * len(loaded.config.layers)))
    ours = loaded.model.state_dict()
    # Routers that are not there decide nothing within the window.
    model.load_state_dict(
        {name: ours.get(name, torch.zeros_like(x)) for name, x in model.state_dict().items()}
    )
    return model


@pytest.fixture(scope="module")
def original(loaded: LoadedModel) -> LlamaForCausalLM:
    """transformers' model; its weights are ours by name, so that only the computation differs."""
    config = loaded.config
    llama = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=len(config.layers),
            num_attention_heads=config.num_heads,
            num_key_value_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            rms_norm_eps=config.rms_norm_eps,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
            tie_word_embeddings=config.tie_embeddings,
            max_position_embeddings=config.max_position,
            eos_token_id=None,
        )
    ).eval()
    ours = loaded.model.state_dict()
    fit = llama.load_state_dict(
        {theirs: ours[name] for theirs, name in llama_name_map(config).items()}, strict=False
    )
    assert fit.missing_keys == ["lm_head.weight"]  # tied
    assert fit.unexpected_keys == []
    return llama


def prompt(loaded: LoadedModel) -> list[int]:
    turns, tokenizer = loaded.turn_format, loaded.tokenizer
    text = "Explain in a few sentences why the sky is blue and what 17 times 23 is."
    ids = turns.start(Role.USER) + turns.open(Role.USER) + tokenizer.encode_plain(text)
    return ids + turns.close(Role.USER) + turns.reply_prefix


def test_the_weights_are_those_that_were_pinned(loaded: LoadedModel):
    assert loaded.manifest.provenance.source_sha256 == GGUF_SHA256
    assert loaded.manifest.provenance.routers.startswith("trained (")


def test_a_third_of_the_layers_is_gdn_and_a_state_small(loaded: LoadedModel):
    branches = [x for x in loaded.config.layers if isinstance(x, LocalGDNConfig)]
    assert len(branches) >= 11
    assert all(layer.window <= 16 for layer in branches)
    assert nbytes(loaded.config, torch.bfloat16) <= 10_000_000


def test_logits_equal_those_of_transformers(
    loaded: LoadedModel, sparse: LaLTE, original: LlamaForCausalLM
):
    window = sparse.config.layers[0].window
    ids = prompt(loaded) * 6
    tokens = torch.tensor([ids[:window]])
    assert tokens.shape[1] == window
    with torch.no_grad():
        theirs = original(tokens).logits
    assert (sparse.logits(tokens) - theirs).abs().max() <= 1e-3


def test_the_greedy_continuation_equals_that_of_transformers(
    loaded: LoadedModel, sparse: LaLTE, original: LlamaForCausalLM
):
    ids = prompt(loaded)
    assert len(ids) + 64 <= sparse.config.layers[0].window
    theirs = original.generate(torch.tensor([ids]), max_new_tokens=64, do_sample=False)[0]
    view = StateSlots.allocate(sparse.config, 1).view(0)
    logits = sparse.extend(torch.tensor(ids), view)
    ours = [int(logits.argmax())]
    while len(ours) < 64:
        ours.append(int(sparse.step(torch.tensor(ours[-1:]), view)[0].argmax()))
    assert ours == theirs[len(ids) :].tolist()
    assert "scatter" in loaded.tokenizer.decode(ours)  # a sensible answer, so the weights are right


def test_turns_are_chatml_with_the_default_system_prompt(loaded: LoadedModel):
    text = "".join(loaded.tokenizer.piece(i) for i in prompt(loaded))
    assert text.startswith(
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
        "<|im_end|>\n<|im_start|>user\nExplain"
    )
    assert text.endswith("<|im_end|>\n<|im_start|>assistant\n")
    assert loaded.turn_format.stop_ids == {loaded.tokenizer.special_id("<|im_end|>")}


class ReferenceTokenizer:
    """SmolLM's tokenizer by its definition: the patterns of llama.cpp, then merges by rank."""

    GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

    def __init__(self, spec: dict) -> None:
        self.vocab = spec["model"]["vocab"]
        self.ranks = {tuple(merge): i for i, merge in enumerate(spec["model"]["merges"])}
        self.letters = byte_alphabet()

    def encode(self, text: str) -> list[int]:
        parts = [part for part in regex.split(r"(\p{N})", text) if part]
        words = [word for part in parts for word in regex.findall(self.GPT2, part)]
        return [self.vocab[token] for word in words for token in self.merge(word)]

    @functools.cache  # noqa: B019  one instance a module
    def merge(self, word: str) -> tuple[str, ...]:
        tokens = [self.letters[byte] for byte in word.encode()]
        while True:
            pairs = list(itertools.pairwise(tokens))
            best = min(pairs, key=lambda pair: self.ranks.get(pair, len(self.ranks)), default=None)
            if best not in self.ranks:
                return tuple(tokens)
            i = pairs.index(best)
            tokens[i : i + 2] = ["".join(best)]


@pytest.fixture(scope="module")
def reference(weights_folder: Path) -> ReferenceTokenizer:
    return ReferenceTokenizer(json.loads((weights_folder / "tokenizer.json").read_text()))


# Six control characters and planes 4 to 11 have no token; letters and digits of every script do.
WRITABLE = st.characters(max_codepoint=0x3FFFF, exclude_categories=["Cc", "Cs", "Cn", "Co"])
MIXED = st.lists(
    st.one_of(
        st.sampled_from(
            ["The quick", " brown", "\n", "\n\n", "  ", "\t", "\r\n", "don't", "'LL", "we'll", "3",
             "1234.5", "½", "٣", "x²", "naïve", "日本語", "🙂👍🏽", "{};", "…",
             "def f(x):\n    return", "\xa0", "\u3000", "<|im_end|>", "http://a.b/c?d=e"]
        ),
        st.text(WRITABLE, max_size=8),
    ),
    max_size=12,
).map("".join)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(MIXED)
def test_the_tokenizer_follows_its_definition(
    loaded: LoadedModel, reference: ReferenceTokenizer, text: str
):
    ids = reference.encode(text)
    assert loaded.tokenizer.encode_plain(text) == ids
    assert loaded.tokenizer.decode(ids) == text


@settings(max_examples=200, deadline=None)
@given(MIXED, st.lists(st.integers(0, 400), max_size=6))
def test_streaming_equals_encoding_at_once(loaded: LoadedModel, text: str, at: list[int]):
    encoder = StreamEncoder(loaded.tokenizer)
    data = text.encode()
    marks = [0, *sorted(i % (len(data) + 1) for i in at), len(data)]
    tail, ids = b"", []
    for i, j in itertools.pairwise(marks):
        taken = encoder.take(tail, data[i:j], final=False)
        ids, tail = ids + taken.ids, taken.tail
    assert ids + encoder.take(tail, b"", final=True).ids == loaded.tokenizer.encode_plain(text)
