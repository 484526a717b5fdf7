"""A config is checked when it is made, and survives JSON."""

import json
from dataclasses import FrozenInstanceError, replace

import pytest

from lalte.config import (
    ConfigError,
    GDNConfig,
    LTEConfig,
    ModelConfig,
    NSAConfig,
    SWAConfig,
)
from lalte.presets import tiny_lalte

BASE = tiny_lalte(("gdn", "lte", "swa", "full"))


def test_json_round_trip_is_exact_and_stable():
    text = BASE.to_json()
    assert ModelConfig.from_json(text) == BASE
    assert ModelConfig.from_json(text).to_json() == text


def test_configs_are_frozen():
    with pytest.raises(FrozenInstanceError):
        BASE.chunk = 4


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"vocab_size": 0}, "vocab_size"),
        ({"chunk": 2.5}, "chunk"),
        ({"num_kv_heads": 3}, "num_kv_heads"),
        ({"head_dim": 15}, "head_dim"),
        ({"layers": ()}, "layers"),
        ({"eviction_grid": "block"}, "eviction_grid"),
        ({"positions": "none"}, "positions"),
        ({"position_span": 31}, "position_span"),
        ({"chunk": 9}, "layers[1].window"),
        ({"layers": (LTEConfig(20, (3,)),)}, "layers[0].budgets"),
        ({"rms_norm_eps": 0.0}, "rms_norm_eps"),
    ],
)
def test_parts_that_do_not_fit_are_refused_by_name(change, field):
    with pytest.raises(ConfigError) as refusal:
        replace(BASE, **change)
    assert refusal.value.field == field


@pytest.mark.parametrize(
    "make",
    [
        lambda: GDNConfig(0, 8, 8),
        lambda: GDNConfig(1, 8, 8, conv_kernel=1),
        lambda: LTEConfig(0, (1,)),
        lambda: LTEConfig(20, (-1,)),
        lambda: LTEConfig(20, (1,), sinks=-1),
        lambda: LTEConfig(20, (1,), router_kernel=2),
        lambda: SWAConfig(0),
        lambda: NSAConfig(0, 64, 16),
        lambda: NSAConfig(512, 0, 16),
        lambda: NSAConfig(512, 64, 2),
    ],
)
def test_impossible_layers_are_refused(make):
    with pytest.raises(ConfigError):
        make()


def test_absolute_positions_need_no_span():
    assert replace(BASE, positions="absolute", position_span=1).position_span == 1


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda body: body.update(colour=1), "unknown keys ['colour']"),
        (lambda body: body.pop("chunk"), "lacks the keys ['chunk']"),
        (lambda body: body["layers"][0].update(kind="rnn"), "must be one of"),
        (lambda body: body["layers"][1].update(extra=1), "unknown keys ['extra']"),
        (lambda body: body["layers"][1].pop("window"), "lacks the keys ['window']"),
        (lambda body: body.update(layers="gdn"), "must be a list"),
        (lambda body: body.update(layers=["gdn"]), "must be an object"),
    ],
)
def test_json_is_read_strictly(change, says):
    body = json.loads(BASE.to_json())
    change(body)
    with pytest.raises(ConfigError) as refusal:
        ModelConfig.from_json(json.dumps(body))
    assert says in str(refusal.value)


@pytest.mark.parametrize("text", ["", "[]", "{"])
def test_what_is_not_a_json_object_is_refused(text):
    with pytest.raises(ConfigError):
        ModelConfig.from_json(text)
