"""How parameters are called here, and what the same tensors are called elsewhere.

Our names follow flash-linear-attention's checkpoints:

    model.embeddings.weight, model.norm.weight, lm_head.weight (absent when tied)
    model.layers.{i}.attn_norm.weight, .mlp_norm.weight, .mlp.{gate,up,down}_proj.weight
    attention    .attn.{q,k,v,o}_proj.weight
    LTE router   .attn.router.conv_stack.convs.{0,1,2}.{weight,bias}, .conv_stack.proj.{weight,bias}
    GDN          .attn.{q,k,v,a,b,g,o}_proj.weight, .attn.{q,k,v}_conv1d.weight, .attn.A_log,
                 .attn.dt_bias, .attn.o_norm.weight
    NSA          attention's, and .attn.g_proj.weight
    local GDN    attention's, and .attn.delta.{down,up}.weight, .attn.gates_proj.weight,
                 .attn.null_bias, .attn.{q,k,v}_conv1d.weight, .attn.A_log, .attn.dt_bias,
                 .attn.o_norm.weight

Llama checkpoints differ in three words: embed_tokens, self_attn, and the two norms' names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lalte.config import ROUTER_LAYERS, GDNConfig, LocalGDNConfig, LTEConfig

if TYPE_CHECKING:
    from lalte.config import ModelConfig

_LLAMA_BLOCK = {
    "input_layernorm.weight": "attn_norm.weight",
    "self_attn.q_proj.weight": "attn.q_proj.weight",
    "self_attn.k_proj.weight": "attn.k_proj.weight",
    "self_attn.v_proj.weight": "attn.v_proj.weight",
    "self_attn.o_proj.weight": "attn.o_proj.weight",
    "post_attention_layernorm.weight": "mlp_norm.weight",
    "mlp.gate_proj.weight": "mlp.gate_proj.weight",
    "mlp.up_proj.weight": "mlp.up_proj.weight",
    "mlp.down_proj.weight": "mlp.down_proj.weight",
}


def llama_name_map(config: ModelConfig) -> dict[str, str]:
    """Name in a Llama checkpoint -> our name, for every tensor; none is reshaped.

    Raises ValueError for a config with GDN layers: they have no counterpart in Llama.
    """
    if any(isinstance(layer, GDNConfig) for layer in config.layers):
        raise ValueError("a Llama checkpoint fills attention layers only; this config has GDN")
    names = {
        "model.embed_tokens.weight": "model.embeddings.weight",
        "model.norm.weight": "model.norm.weight",
    }
    if not config.tie_embeddings:
        names["lm_head.weight"] = "lm_head.weight"
    for i in range(len(config.layers)):
        for theirs, ours in _LLAMA_BLOCK.items():
            names[f"model.layers.{i}.{theirs}"] = f"model.layers.{i}.{ours}"
    return names


def router_parameter_names(config: ModelConfig) -> list[str]:
    """Our parameters that no Llama checkpoint holds: the routers of the LTE layers."""
    parts = [f"convs.{n}" for n in range(ROUTER_LAYERS)] + ["proj"]
    return [
        f"model.layers.{i}.attn.router.conv_stack.{part}.{kind}"
        for i, layer in enumerate(config.layers)
        if isinstance(layer, LTEConfig)
        for part in parts
        for kind in ("weight", "bias")
    ]


_BRANCH = (
    "delta.down.weight",
    "delta.up.weight",
    "gates_proj.weight",
    "null_bias",
    "q_conv1d.weight",
    "k_conv1d.weight",
    "v_conv1d.weight",
    "A_log",
    "dt_bias",
    "o_norm.weight",
)


def branch_parameter_names(config: ModelConfig) -> list[str]:
    """Our parameters that no Llama checkpoint holds: the branches of the local GDN layers."""
    return [
        f"model.layers.{i}.attn.{part}"
        for i, layer in enumerate(config.layers)
        if isinstance(layer, LocalGDNConfig)
        for part in _BRANCH
    ]
