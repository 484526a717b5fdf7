"""Weights of flash-linear-attention's own model class give the logits of its naive path here.

Its layers need a GPU. The path below is its naive gated delta rule between plain torch functions.
"""

import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional

from lalte.checkpoints.fla import read_fla
from lalte.checkpoints.fla_config import Serving
from lalte.model import LaLTE
from lalte.state import StateSlots

LENGTH = 150


@pytest.fixture(scope="module")
def theirs() -> SimpleNamespace:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there is no GPU
        pytest.importorskip("fla")
        from fla.models.gated_deltanet import GatedDeltaNetConfig, GatedDeltaNetForCausalLM
        from fla.ops.gated_delta_rule.naive import naive_recurrent_gated_delta_rule
    return SimpleNamespace(
        config=GatedDeltaNetConfig,
        model=GatedDeltaNetForCausalLM,
        delta_rule=naive_recurrent_gated_delta_rule,
    )


def naive_logits(theirs, model, tokens: torch.Tensor) -> torch.Tensor:
    """[batch, n] -> [batch, n, vocab], from the parameters of their model."""
    config, weight = model.config, model.state_dict()
    heads, eps = config.num_heads, config.norm_eps

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return functional.rms_norm(x, x.shape[-1:], weight[f"{name}.weight"], eps)

    x = functional.embedding(tokens, weight["model.embeddings.weight"])
    for i in range(config.num_hidden_layers):
        layer = f"model.layers.{i}"
        attn = f"{layer}.attn"
        h = norm(x, f"{layer}.attn_norm")
        parts = []
        for name in "qkv":
            y = functional.linear(h, weight[f"{attn}.{name}_proj.weight"]).transpose(1, 2)
            taps = weight[f"{attn}.{name}_conv1d.weight"]
            y = functional.conv1d(
                functional.pad(y, (taps.shape[2] - 1, 0)), taps, groups=taps.shape[0]
            )
            parts.append(functional.silu(y).transpose(1, 2).unflatten(-1, (heads, -1)))
        q, k, v = parts
        # As its kernels bring q and k to unit length: eps inside the root.
        q, k = (y * torch.rsqrt(y.square().sum(-1, keepdim=True) + 1e-6) for y in (q, k))
        beta = functional.linear(h, weight[f"{attn}.b_proj.weight"]).sigmoid()
        a = functional.linear(h, weight[f"{attn}.a_proj.weight"]) + weight[f"{attn}.dt_bias"]
        g = -weight[f"{attn}.A_log"].exp() * functional.softplus(a)
        out, _ = theirs.delta_rule(q, k, v, beta, g)
        gate = functional.linear(h, weight[f"{attn}.g_proj.weight"]).unflatten(-1, (heads, -1))
        out = norm(out, f"{attn}.o_norm") * functional.silu(gate)
        x = x + functional.linear(out.flatten(-2), weight[f"{attn}.o_proj.weight"])
        h = norm(x, f"{layer}.mlp_norm")
        gate, up, down = (weight[f"{layer}.mlp.{n}_proj.weight"] for n in ("gate", "up", "down"))
        h = functional.silu(functional.linear(h, gate)) * functional.linear(h, up)
        x = x + functional.linear(h, down)
    head = weight["model.embeddings.weight" if config.tie_word_embeddings else "lm_head.weight"]
    return functional.linear(norm(x, "model.norm"), head)


@pytest.mark.parametrize(("tied", "expand_v"), [(False, 1), (True, 2)])
def test_their_weights_give_the_logits_of_their_naive_path(
    theirs, tmp_path: Path, tied: bool, expand_v: int
):
    torch.manual_seed(11)
    config = theirs.config(
        hidden_size=96,
        num_hidden_layers=3,
        num_heads=3,
        head_dim=24,
        expand_v=expand_v,
        vocab_size=300,
        tie_word_embeddings=tied,
        # Larger than its default 0.02, so that every part of the model shows in the logits.
        initializer_range=0.15,
    )
    model = theirs.model(config)
    model.save_pretrained(tmp_path / "theirs")
    checkpoint = read_fla(tmp_path / "theirs", Serving(chunk=16))
    ours = LaLTE(checkpoint.config)
    ours.load_state_dict(checkpoint.tensors)

    tokens = torch.randint(0, 300, (2, LENGTH))
    expected = naive_logits(theirs, model, tokens)
    assert expected.std() > 0.3
    torch.testing.assert_close(ours.logits(tokens), expected, atol=1e-4, rtol=0)

    slots = StateSlots.allocate(ours.config, 1)
    ours.absorb(tokens[:1, :144], [slots.view(0)])
    streamed = ours(tokens[:1, 144:], slots.view(0))
    torch.testing.assert_close(streamed, expected[:1, 144:], atol=1e-4, rtol=0)
