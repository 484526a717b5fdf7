"""Initial weights follow the papers, and a seed gives one model."""

import torch

from lalte.init import init_weights, random_model
from lalte.model import LaLTE
from lalte.presets import tiny_lalte
from lalte.state import StateSlots


def trained_from_scratch(seed):
    model = LaLTE(tiny_lalte(("gdn", "lte")))
    init_weights(model, seed)
    return model.state_dict()


def test_a_seed_gives_the_same_weights_and_another_gives_others():
    first, again, other = (trained_from_scratch(seed) for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["model.embeddings.weight"], other["model.embeddings.weight"])


def test_every_parameter_is_set():
    for parameters in (trained_from_scratch(1), random_model(tiny_lalte(), 1).state_dict()):
        for name, value in parameters.items():
            assert value.isfinite().all(), name
            assert value.abs().max() < 8, name


def test_initialisation_is_the_methods():
    weights = trained_from_scratch(1)
    gdn, lte = "model.layers.0.attn.", "model.layers.1.attn."
    for name in ("q_proj.weight", "g_proj.weight", "q_conv1d.weight"):
        assert 0.004 < weights[gdn + name].std() < 0.008
    assert (weights[gdn + "A_log"].exp() <= 16).all()
    step = torch.nn.functional.softplus(weights[gdn + "dt_bias"])
    assert ((step >= 0.99e-3) & (step <= 0.101)).all()
    bound = 64**-0.5 / 2
    assert 0.8 * bound < weights[lte + "o_proj.weight"].abs().max() <= bound
    router = lte + "router.conv_stack."
    assert (weights[router + "proj.bias"] == 0.5).all()
    assert (weights[router + "convs.0.bias"] == 0).all()


def test_untrained_routers_keep_every_token():
    model = LaLTE(tiny_lalte(("lte",), budget=12))
    init_weights(model, 3)
    slots = StateSlots.allocate(model.config, 1)
    model.absorb(torch.randint(0, 512, (1, 32)), [slots.view(0)])
    assert slots.retained(0)[0].positions == list(range(12))
