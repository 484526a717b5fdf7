"""With LTE in every layer and the window over all, a retrofit is the Llama it was made of."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from lalte.model import LaLTE
from lalte.names import llama_name_map, router_parameter_names
from lalte.presets import llama_lalte, tiny_lalte
from lalte.state import StateSlots


def make_pair(tied):
    """A random GQA Llama, and its weights as a laLTE."""
    torch.manual_seed(11)
    theirs = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=300,
            hidden_size=96,
            intermediate_size=160,
            num_hidden_layers=3,
            num_attention_heads=6,
            num_key_value_heads=2,
            head_dim=16,
            max_position_embeddings=512,
            rms_norm_eps=1e-5,
            rope_parameters={"rope_type": "default", "rope_theta": 50_000.0},
            tie_word_embeddings=tied,
            eos_token_id=None,
            initializer_range=0.15,
            attn_implementation="eager",
        )
    ).eval()
    config = llama_lalte(
        vocab_size=300,
        hidden_size=96,
        intermediate_size=160,
        num_layers=3,
        num_heads=6,
        num_kv_heads=2,
        head_dim=16,
        rms_norm_eps=1e-5,
        rope_theta=50_000.0,
        tie_embeddings=tied,
        max_position=512,
        window=256,
        budget=16,
        chunk=32,
    )
    ours = LaLTE(config)
    source = theirs.state_dict()
    weights = {ours_: source[theirs_] for theirs_, ours_ in llama_name_map(config).items()}
    shapes = {name: x.shape for name, x in ours.state_dict().items()}
    routers = {name: torch.randn(shapes[name]) for name in router_parameter_names(config)}
    ours.load_state_dict({**weights, **routers}, strict=True)
    return theirs, ours


@pytest.mark.parametrize("tied", [True, False])
def test_logits_equal_the_originals(tied):
    theirs, ours = make_pair(tied)
    tokens = torch.randint(0, 300, (2, 250))
    with torch.no_grad():
        expected = theirs(tokens).logits
    assert expected.std() > 0.5
    assert (ours.logits(tokens) - expected).abs().max() <= 1e-3


def test_greedy_continuation_equals_the_originals():
    theirs, ours = make_pair(tied=False)
    prompt = torch.randint(0, 300, (1, 45))
    with torch.no_grad():
        expected = theirs.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=64,
            do_sample=False, pad_token_id=0,
        )[0, 45:]  # fmt: skip
    slots = StateSlots.allocate(ours.config, 1)
    logits = ours.extend(prompt[0], slots.view(0))
    actual = []
    for _ in range(64):
        actual.append(int(logits.argmax()))
        logits = ours.step(torch.tensor(actual[-1:]), slots.view(0))[0]
    assert actual == expected.tolist()
    assert len(set(actual)) > 10


def test_a_llama_cannot_fill_gated_deltanet_layers():
    with pytest.raises(ValueError, match="GDN"):
        llama_name_map(tiny_lalte())
