"""The six members of the laLTE family, each a configuration of the one model.

    gdn             Gated DeltaNet in every layer
    gdn-swa         Gated DeltaNet and sliding-window attention, alternating
    lalte           Gated DeltaNet and sparse attention with learnable token eviction, alternating
    lansa           Gated DeltaNet and native sparse attention, alternating
    gdn-attention   Gated DeltaNet and full attention, alternating
    transformer++   full attention in every layer

The attention layers are those at odd indices. The state of the first three has a fixed size, that
of the others grows with the stream. The sizes 0.4b and 1.4b are those of the paper (arXiv
2510.20787); tiny and small train on a processor in minutes to hours, and scale window and budget
down with the length.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from lalte.config import (
    FullConfig,
    GDNConfig,
    LTEConfig,
    ModelConfig,
    NSAConfig,
    SWAConfig,
)

if TYPE_CHECKING:
    from lalte.config import LayerConfig

Maker = Callable[[], ModelConfig]

INNER_MULTIPLE = 256


def inner_size(hidden_size: int, ratio: float = 4, multiple: int = INNER_MULTIPLE) -> int:
    """Width of a SwiGLU MLP with about as many weights as a plain one of `ratio` * hidden."""
    return -(-int(hidden_size * ratio * 2 / 3) // multiple) * multiple


@dataclass(frozen=True)
class _Heads:
    """Query heads, KV heads and their size."""

    num: int
    kv: int
    dim: int


@dataclass(frozen=True)
class _Size:
    """What the members of one size share. window, budget: of LTE; span: of its positions."""

    vocab_size: int
    hidden_size: int
    num_layers: int
    gdn: GDNConfig
    attention: _Heads
    nsa_heads: _Heads
    nsa: NSAConfig
    swa_window: int
    window: int
    budget: int
    position_span: int
    chunk: int
    max_position: int
    tie_embeddings: bool


_SIZES = {
    "tiny": _Size(
        vocab_size=512,
        hidden_size=128,
        num_layers=4,
        gdn=GDNConfig(2, 64, 64),
        attention=_Heads(4, 4, 32),
        nsa_heads=_Heads(8, 2, 32),
        nsa=NSAConfig(window=32, block_size=8, num_blocks=4),
        swa_window=64,
        window=32,
        budget=32,
        position_span=128,
        chunk=16,
        max_position=512,
        tie_embeddings=True,
    ),
    "small": _Size(
        vocab_size=512,
        hidden_size=256,
        num_layers=6,
        gdn=GDNConfig(4, 64, 64),
        attention=_Heads(8, 8, 32),
        nsa_heads=_Heads(16, 2, 32),
        nsa=NSAConfig(window=64, block_size=16, num_blocks=4),
        swa_window=128,
        window=64,
        budget=64,
        position_span=256,
        chunk=32,
        max_position=1024,
        tie_embeddings=True,
    ),
    "0.4b": _Size(
        vocab_size=32_000,
        hidden_size=1024,
        num_layers=24,
        gdn=GDNConfig(8, 128, 128),
        attention=_Heads(16, 16, 64),
        nsa_heads=_Heads(32, 2, 64),
        nsa=NSAConfig(window=512, block_size=64, num_blocks=16),
        swa_window=1024,
        window=768,
        budget=512,
        position_span=2048,
        chunk=64,
        max_position=4096,
        tie_embeddings=True,
    ),
    "1.4b": _Size(
        vocab_size=32_000,
        hidden_size=2048,
        num_layers=24,
        gdn=GDNConfig(8, 256, 256),
        attention=_Heads(32, 8, 64),
        nsa_heads=_Heads(32, 2, 64),
        nsa=NSAConfig(window=512, block_size=64, num_blocks=16),
        swa_window=1024,
        window=768,
        budget=512,
        position_span=2048,
        chunk=64,
        max_position=4096,
        tie_embeddings=False,
    ),
}

SIZES = tuple(_SIZES)
MEMBERS = ("gdn", "gdn-swa", "lalte", "lansa", "gdn-attention", "transformer++")


def member(name: str, size: str, vocab_size: int | None = None) -> ModelConfig:
    """Return a member of the family. name: of MEMBERS. size: of SIZES.

    vocab_size: None is the size's own. Raises KeyError for a name or a size that there is not.
    """
    chosen = _SIZES[size]
    heads = chosen.nsa_heads if name == "lansa" else chosen.attention
    layers: dict[str, tuple[LayerConfig, LayerConfig]] = {
        "gdn": (chosen.gdn, chosen.gdn),
        "gdn-swa": (chosen.gdn, SWAConfig(chosen.swa_window)),
        "lalte": (chosen.gdn, LTEConfig(chosen.window, (chosen.budget,) * heads.kv)),
        "lansa": (chosen.gdn, chosen.nsa),
        "gdn-attention": (chosen.gdn, FullConfig()),
        "transformer++": (FullConfig(), FullConfig()),
    }
    even, odd = layers[name]
    return ModelConfig(
        vocab_size=vocab_size or chosen.vocab_size,
        hidden_size=chosen.hidden_size,
        intermediate_size=inner_size(chosen.hidden_size),
        num_heads=heads.num,
        num_kv_heads=heads.kv,
        head_dim=heads.dim,
        layers=tuple(odd if index % 2 else even for index in range(chosen.num_layers)),
        chunk=chosen.chunk,
        max_position=chosen.max_position,
        tie_embeddings=chosen.tie_embeddings,
        position_span=chosen.position_span,
    )


PRESETS: dict[str, Maker] = {
    f"{name}-{size}": partial(member, name, size) for name in MEMBERS for size in SIZES
}
