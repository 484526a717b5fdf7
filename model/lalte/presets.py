"""Configurations that more than one place needs: a tiny model for tests, and a Llama as laLTE."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lalte.config import (
    FullConfig,
    GDNConfig,
    LocalGDNConfig,
    LTEConfig,
    ModelConfig,
    NSAConfig,
    SWAConfig,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lalte.config import EvictionGrid, LayerConfig, Positions


def tiny_lalte(
    kinds: Sequence[str] = ("gdn", "lte", "gdn", "lte"),
    *,
    vocab_size: int = 512,
    chunk: int = 8,
    window: int = 20,
    budget: int = 12,
    eviction_grid: EvictionGrid = "chunk",
    positions: Positions = "bounded",
    position_span: int = 48,
) -> ModelConfig:
    """Return a model that runs a service test in milliseconds; `kinds` names its layers.

    Hidden 64, 4 query heads and 2 KV heads of 16. The KV heads' budgets differ on purpose.
    """
    num_kv_heads = 2
    layers: dict[str, LayerConfig] = {
        "gdn": GDNConfig(num_heads=3, head_k_dim=16, head_v_dim=16),
        "local_gdn": LocalGDNConfig(window=5, rank=8, sinks=2),
        "lte": LTEConfig(window=window, budgets=(budget, max(budget - 3, 0))),
        "swa": SWAConfig(window=window),
        "nsa": NSAConfig(window=10, block_size=4, num_blocks=4),
        "full": FullConfig(),
    }
    return ModelConfig(
        vocab_size=vocab_size,
        hidden_size=64,
        intermediate_size=128,
        num_heads=4,
        num_kv_heads=num_kv_heads,
        head_dim=16,
        layers=tuple(layers[kind] for kind in kinds),
        chunk=chunk,
        max_position=4096,
        tie_embeddings=True,
        eviction_grid=eviction_grid,
        positions=positions,
        position_span=position_span,
    )


def llama_lalte(
    *,
    vocab_size: int,
    hidden_size: int,
    intermediate_size: int,
    num_layers: int,
    num_heads: int,
    num_kv_heads: int,
    head_dim: int,
    rms_norm_eps: float,
    rope_theta: float,
    tie_embeddings: bool,
    max_position: int,
    window: int = 256,
    budget: int = 256,
    sinks: int = 4,
    chunk: int = 64,
    eviction_grid: EvictionGrid = "chunk",
    positions: Positions = "bounded",
    position_span: int = 1024,
) -> ModelConfig:
    """Return a Llama's dimensions with LTE in every layer: the retrofit before any training."""
    layer = LTEConfig(window=window, budgets=(budget,) * num_kv_heads, sinks=sinks)
    return ModelConfig(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        layers=(layer,) * num_layers,
        chunk=chunk,
        max_position=max_position,
        rms_norm_eps=rms_norm_eps,
        rope_theta=rope_theta,
        tie_embeddings=tie_embeddings,
        eviction_grid=eviction_grid,
        positions=positions,
        position_span=position_span,
    )
