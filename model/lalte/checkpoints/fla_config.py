"""config.json of flash-linear-attention and of Idiap's hybrid models, read and written.

    model_type              attention layers (`attn`, at attn.layers)
    gated_deltanet          none, or full or sliding-window attention
    hybrid_gated_deltanet   attn.attn_type: "lte", "nsa", or "attn" (full or sliding window)
    transformer             full or sliding-window attention in every layer

Settings that they leave out have the values of those packages' classes. Strict: a setting that our
model does not compute is refused, not ignored. How a state is served (chunk, eviction grid,
positions) is none of theirs and comes from `Serving`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from lalte.checkpoints.errors import CheckpointError
from lalte.config import (
    ROUTER_LAYERS,
    ConfigError,
    FullConfig,
    GDNConfig,
    LTEConfig,
    ModelConfig,
    NSAConfig,
    SWAConfig,
)
from lalte.family import inner_size

if TYPE_CHECKING:
    from pathlib import Path

    from lalte.config import EvictionGrid, LayerConfig, Positions

GATED_DELTANET = "gated_deltanet"
HYBRID = "hybrid_gated_deltanet"
TRANSFORMER = "transformer"
MODEL_TYPES = (GATED_DELTANET, HYBRID, TRANSFORMER)

# Settings that change what a model computes, and the values that ours computes.
_REQUIRED: dict[str, tuple[object, ...]] = {
    "hidden_act": ("swish", "silu"),
    "use_gate": (True,),
    "use_short_conv": (True,),
    "conv_bias": (False,),
    "allow_neg_eigval": (False,),
    "output_gate_activation": ("swish", "silu"),
    "attnres_block_size": (None,),
    "qkv_bias": (False,),
    "qk_norm": (False,),
    "rope_scaling": (None,),
    "quantization_config": (None,),
}
_REQUIRED_ATTENTION: dict[str, tuple[object, ...]] = {
    "attn_type": ("attn", "lte", "nsa"),
    "qkv_bias": (False,),
    "qk_norm": (False,),
    "routing_method": ("sigmoid",),
    "routing_shared": ("head",),
    "l1_lambda_shared": ("head",),
}

# What the reference trains LTE with (Idiap's configurations); no part of what it computes.
_LTE_TRAINING = {
    "dropout_prob": 0.1,
    "routing_method": "sigmoid",
    "routing_grad": True,
    "routing_shared": "head",
    "routing_freeze_steps": 0,
    "l1_lambda_init": 1e-9,
    "l1_lambda_min": 1e-9,
    "l1_lambda_max": 1.0,
    "l1_alpha": 1.5,
    "l1_alpha_neg": 2,
    "l1_warmup_steps": 0,
    "l1_lambda_initial_steps": 0,
    "l1_lambda_update_steps": 32,
    "l1_lambda_shared": "head",
    "l1_lambda_tolerate": [0.95, 1.0],
}


@dataclass(frozen=True, slots=True)
class Serving:
    """How a checkpoint's state is kept, which its config.json does not say. See ModelConfig."""

    chunk: int = 64
    eviction_grid: EvictionGrid = "chunk"
    positions: Positions = "bounded"
    position_span: int = 2048


def read_settings(
    path: Path, settings: dict[str, Any], serving: Serving | None = None
) -> ModelConfig:
    """Return the model that a config.json describes.

    path: for messages. Raises CheckpointError that names each setting that does not fit.
    """
    attention = settings.get("attn") or {}
    wrong = _unsupported(settings, _REQUIRED)
    wrong += [f"attn.{line}" for line in _unsupported(attention, _REQUIRED_ATTENTION)]
    if settings.get("model_type") not in MODEL_TYPES:
        wrong.insert(0, f"model_type = {settings.get('model_type')!r} (none of {MODEL_TYPES})")
    if settings.get("num_v_heads") not in (None, settings.get("num_heads")):
        wrong.append("num_v_heads differs from num_heads (unsupported)")
    if wrong:
        raise CheckpointError(path, "; ".join(wrong))
    try:
        return _model(settings, attention, serving or Serving())
    except KeyError as error:
        raise CheckpointError(path, f"lacks {error}") from error
    except (ConfigError, TypeError, ValueError) as error:
        raise CheckpointError(path, f"describes no model: {error}") from error


def _unsupported(settings: dict[str, Any], required: dict[str, tuple[object, ...]]) -> list[str]:
    return [
        f"{key} = {settings[key]!r} (only {' or '.join(map(repr, allowed))} is supported)"
        for key, allowed in required.items()
        if key in settings and settings[key] not in allowed
    ]


def _model(settings: dict[str, Any], attention: dict[str, Any], serving: Serving) -> ModelConfig:
    hidden = int(settings["hidden_size"])
    count = int(settings["num_hidden_layers"])
    plain = settings["model_type"] == TRANSFORMER
    if plain:
        attention = settings | {"layers": range(count)}
    heads = int(attention.get("num_heads") or settings["num_heads"])
    kv_heads = int(attention.get("num_kv_heads") or heads)
    inner = settings.get("intermediate_size")
    gdn = None if plain else _gdn(settings)
    other = _attention(attention, kv_heads)
    at = {int(index) for index in attention.get("layers", ())}
    if not at <= set(range(count)):
        raise ValueError(f"attn.layers names layers outside 0..{count - 1}")
    # NSA's heads together may be wider than the model. Without attention the number is not used.
    own_size = attention.get("attn_type") == "nsa" or not at
    head_dim = (attention if at else settings)["head_dim"] if own_size else hidden // heads
    return ModelConfig(
        vocab_size=int(settings.get("vocab_size", 32_000)),
        hidden_size=hidden,
        intermediate_size=inner or inner_size(hidden, settings.get("hidden_ratio") or 4),
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=int(head_dim),
        layers=tuple(other if i in at else gdn or other for i in range(count)),
        max_position=int(settings.get("max_position_embeddings", 2048)),
        rms_norm_eps=float(settings.get("norm_eps", 1e-6)),
        rope_theta=float(attention.get("rope_theta") or 10_000.0),
        tie_embeddings=bool(settings.get("tie_word_embeddings", False)),
        **asdict(serving),
    )


def _gdn(settings: dict[str, Any]) -> GDNConfig:
    size = int(settings["head_dim"])
    value_size = size * float(settings.get("expand_v", 2))
    if value_size != int(value_size):
        raise ValueError(f"expand_v makes value heads of {value_size} channels")
    return GDNConfig(
        num_heads=int(settings["num_heads"]),
        head_k_dim=size,
        head_v_dim=int(value_size),
        conv_kernel=int(settings.get("conv_size", 4)),
    )


def _attention(attention: dict[str, Any], kv_heads: int) -> LayerConfig:
    kind, window = attention.get("attn_type", "attn"), attention.get("window_size")
    if kind == "lte":
        kernels, dilations = attention["conv_size"], attention["conv_dilation"]
        if len(kernels) != ROUTER_LAYERS or len({*kernels}) > 1 or len({*dilations}) > 1:
            raise ValueError(f"attn: only {ROUTER_LAYERS} equal convolutions are supported")
        return LTEConfig(
            window=int(attention["window_size"]),
            budgets=(int(attention["buffer_size"]),) * kv_heads,
            sinks=int(attention["sink_size"]),
            router_kernel=int(kernels[0]),
            router_dilation=int(dilations[0]),
        )
    if kind == "nsa":
        return NSAConfig(
            window=int(attention["window_size"]),
            block_size=int(attention["block_size"]),
            num_blocks=int(attention["block_counts"]),
        )
    return FullConfig() if window is None else SWAConfig(int(window))


def write_settings(source: str, config: ModelConfig) -> dict[str, Any]:
    """Return the config.json of a model: the inverse of `read_settings`, less `Serving`.

    Raises CheckpointError where there is none: layers of several attention kinds or sizes, or
    budgets that differ between heads.
    """
    gdn = {layer for layer in config.layers if isinstance(layer, GDNConfig)}
    others = {layer for layer in config.layers if not isinstance(layer, GDNConfig)}
    if len(gdn) > 1 or len(others) > 1:
        raise CheckpointError(source, "layers of one kind differ; the format has one of each kind")
    settings: dict[str, Any] = {
        "hidden_act": "swish",
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "max_position_embeddings": config.max_position,
        "norm_eps": config.rms_norm_eps,
        "num_hidden_layers": len(config.layers),
        "tie_word_embeddings": config.tie_embeddings,
        "vocab_size": config.vocab_size,
    }
    attention = [_write_attention(source, config, layer) for layer in others]
    if not gdn:
        if "attn_type" in attention[0]:
            raise CheckpointError(source, "the format has no model of these layers alone")
        return settings | attention[0] | {"model_type": TRANSFORMER}
    settings |= _write_gdn(*gdn)
    if not attention:
        return settings
    at = [i for i, layer in enumerate(config.layers) if not isinstance(layer, GDNConfig)]
    # Plain attention needs no hybrid class.
    model_type = HYBRID if "attn_type" in attention[0] else GATED_DELTANET
    return settings | {"attn": {"layers": at} | attention[0], "model_type": model_type}


def _write_gdn(layer: GDNConfig) -> dict[str, Any]:
    return {
        "attn_mode": "chunk",
        "conv_size": layer.conv_kernel,
        "expand_v": layer.head_v_dim / layer.head_k_dim,
        "head_dim": layer.head_k_dim,
        "model_type": GATED_DELTANET,
        "num_heads": layer.num_heads,
        "use_gate": True,
        "use_short_conv": True,
    }


def _write_attention(source: str, config: ModelConfig, layer: LayerConfig) -> dict[str, Any]:
    shared = {
        "num_heads": config.num_heads,
        "num_kv_heads": config.num_kv_heads,
        "qkv_bias": False,
        "rope_theta": config.rope_theta,
    }
    if isinstance(layer, NSAConfig):
        return shared | {
            "attn_type": "nsa",
            "head_dim": config.head_dim,
            "window_size": layer.window,
            "block_size": layer.block_size,
            "block_counts": layer.num_blocks,
        }
    if config.head_dim * config.num_heads != config.hidden_size:
        raise CheckpointError(source, "the format's heads together are as wide as the model")
    if isinstance(layer, LTEConfig):
        if len({*layer.budgets}) > 1:
            raise CheckpointError(source, "budgets differ between heads; the format has one")
        kernels, dilations = [layer.router_kernel], [layer.router_dilation]
        return (
            shared
            | _LTE_TRAINING
            | {
                "attn_type": "lte",
                "window_size": layer.window,
                "buffer_size": layer.budgets[0],
                "sink_size": layer.sinks,
                "conv_size": kernels * ROUTER_LAYERS,
                "conv_dilation": dilations * ROUTER_LAYERS,
            }
        )
    if isinstance(layer, SWAConfig | FullConfig):
        return shared | {"window_size": layer.window if isinstance(layer, SWAConfig) else None}
    raise CheckpointError(source, f"the format has no layers of kind {layer.kind}")
