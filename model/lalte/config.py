"""What a model is made of: frozen, validated, and the same through JSON and back."""

from __future__ import annotations

import json
from dataclasses import MISSING, asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

if TYPE_CHECKING:
    from collections.abc import Iterable

EvictionGrid = Literal["chunk", "token"]
Positions = Literal["bounded", "absolute"]

# Tokens on each side of a token that its retention score reads: three convolutions of kernel 3 and
# dilation 2 reach 2 each.
ROUTER_LAYERS = 3


class ConfigError(ValueError):
    """A configuration that cannot be a model.

    `field` names what is wrong and `reason` says why and what would be right.
    """

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason


def _require(condition: bool, field: str, reason: str) -> None:
    if not condition:
        raise ConfigError(field, reason)


def _require_positive(config: object, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        whole = isinstance(value, int) and not isinstance(value, bool)
        _require(whole and value > 0, name, f"must be a whole number above 0, not {value!r}")


@dataclass(frozen=True)
class GDNConfig:
    """A Gated DeltaNet layer (arXiv 2412.06464)."""

    kind: ClassVar[str] = "gdn"

    num_heads: int
    head_k_dim: int
    head_v_dim: int
    conv_kernel: int = 4  # taps of the causal short convolution, the current token included

    def __post_init__(self) -> None:
        _require_positive(self, "num_heads", "head_k_dim", "head_v_dim", "conv_kernel")
        _require(self.conv_kernel >= 2, "conv_kernel", "must be at least 2")


@dataclass(frozen=True)
class LocalGDNConfig:
    """A Gated DeltaNet branch beside softmax attention over the first and the last few tokens.

    Both stand on the projections of one attention layer: what a retrofit puts in its place. Heads
    and their size are the model's attention's.
    """

    kind: ClassVar[str] = "local_gdn"

    window: int  # as in SWAConfig
    rank: int  # of what the branch adds to the projections that it shares
    conv_kernel: int = 4
    sinks: int = 0  # the first tokens of the stream, seen besides the window

    def __post_init__(self) -> None:
        _require_positive(self, "window", "rank", "conv_kernel")
        _require(self.sinks >= 0, "sinks", "must not be negative")
        _require(self.conv_kernel >= 2, "conv_kernel", "must be at least 2")


@dataclass(frozen=True)
class LTEConfig:
    """Sparse attention with learnable token eviction (arXiv 2510.20787)."""

    kind: ClassVar[str] = "lte"

    window: int  # w: query i sees every j >= i - w, which is w + 1 keys with its own
    budgets: tuple[int, ...]  # B per KV head: retained tokens, sinks included
    sinks: int = 4  # s: the first s tokens of the stream rank above all others
    router_kernel: int = 3
    router_dilation: int = 2

    def __post_init__(self) -> None:
        object.__setattr__(self, "budgets", tuple(self.budgets))
        _require_positive(self, "window", "router_kernel", "router_dilation")
        _require(self.router_kernel % 2 == 1, "router_kernel", "must be odd: the score is centred")
        _require(self.sinks >= 0, "sinks", "must not be negative")
        _require(
            all(isinstance(b, int) and b >= 0 for b in self.budgets),
            "budgets",
            f"must be whole numbers of at least 0, one per KV head, not {self.budgets!r}",
        )

    @property
    def reach(self) -> int:
        """Tokens on each side of a token that its retention score reads (6 in the paper)."""
        return ROUTER_LAYERS * (self.router_kernel // 2) * self.router_dilation


@dataclass(frozen=True)
class SWAConfig:
    """Sliding-window attention."""

    kind: ClassVar[str] = "swa"

    window: int  # query i sees i - window < j <= i: its own key is one of `window`

    def __post_init__(self) -> None:
        _require_positive(self, "window")


@dataclass(frozen=True)
class NSAConfig:
    """Native sparse attention (arXiv 2502.11089). Its state grows with the stream."""

    kind: ClassVar[str] = "nsa"

    window: int  # as in SWAConfig
    block_size: int  # tokens that are compressed to one, and chosen as one
    num_blocks: int  # blocks that a query reads in full

    def __post_init__(self) -> None:
        _require_positive(self, "window", "block_size", "num_blocks")
        _require(
            self.num_blocks >= 3,
            "num_blocks",
            "must be at least 3: the first, the previous and the current block are always read",
        )


@dataclass(frozen=True)
class FullConfig:
    """Full causal attention. Its state grows with the stream."""

    kind: ClassVar[str] = "full"


FixedLayerConfig = GDNConfig | LocalGDNConfig | LTEConfig | SWAConfig
GrowingLayerConfig = NSAConfig | FullConfig
LayerConfig = FixedLayerConfig | GrowingLayerConfig
_LAYER_KINDS: dict[str, type[LayerConfig]] = {
    c.kind: c for c in (GDNConfig, LocalGDNConfig, LTEConfig, SWAConfig, NSAConfig, FullConfig)
}


@dataclass(frozen=True)
class ModelConfig:
    """A whole model. Raises ConfigError where the parts do not fit each other."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_heads: int  # query heads of the attention layers; GDN layers have their own
    num_kv_heads: int
    head_dim: int
    layers: tuple[LayerConfig, ...]
    chunk: int  # C: state is committed every C tokens, and only then
    max_position: int  # the length the weights were trained at
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10_000.0
    tie_embeddings: bool = False
    # G: with "chunk" what a query sees of the past changes every C tokens; "token" is the paper.
    eviction_grid: EvictionGrid = "chunk"
    # "bounded" packs retained tokens to within position_span of the block; "absolute" is the paper.
    positions: Positions = "bounded"
    position_span: int = 1024  # P

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(self.layers))
        sizes = ("vocab_size", "hidden_size", "intermediate_size", "num_heads", "num_kv_heads")
        _require_positive(self, *sizes, "head_dim", "chunk", "max_position", "position_span")
        _require(self.rms_norm_eps > 0, "rms_norm_eps", "must be above 0")
        _require(self.rope_theta > 0, "rope_theta", "must be above 0")
        _require(len(self.layers) > 0, "layers", "must name at least one layer")
        _require(
            self.num_heads % self.num_kv_heads == 0,
            "num_kv_heads",
            f"must divide num_heads ({self.num_heads}), not {self.num_kv_heads}",
        )
        _require(self.head_dim % 2 == 0, "head_dim", "must be even: RoPE turns pairs")
        grids, positions = get_args(EvictionGrid), get_args(Positions)
        _require(self.eviction_grid in grids, "eviction_grid", f"must be one of {grids}")
        _require(self.positions in positions, "positions", f"must be one of {positions}")
        for index, layer in enumerate(self.layers):
            if isinstance(layer, LTEConfig):
                self._check_lte(f"layers[{index}]", layer)
            elif isinstance(layer, LocalGDNConfig):
                _require(
                    layer.sinks <= self.chunk,
                    f"layers[{index}].sinks",
                    f"must lie in the first block, of {self.chunk} tokens; they are {layer.sinks}",
                )

    def _check_lte(self, name: str, layer: LTEConfig) -> None:
        _require(
            len(layer.budgets) == self.num_kv_heads,
            f"{name}.budgets",
            f"needs one budget per KV head: {self.num_kv_heads}, not {len(layer.budgets)}",
        )
        _require(
            self.head_dim % 4 == 0, "head_dim", "must be a multiple of 4: the router halves it"
        )
        # Every score that the next block needs must come from the window at the block's start.
        least = self.chunk + 2 * layer.reach
        _require(
            layer.window >= least,
            f"{name}.window",
            f"must be at least chunk + {2 * layer.reach} = {least}, not {layer.window}",
        )
        if self.positions == "bounded":
            span = layer.window + max(layer.budgets)
            _require(
                self.position_span >= span,
                "position_span",
                f"must be at least window + largest budget of {name} = {span}, or packed tokens "
                f"would overlap the window; it is {self.position_span}",
            )

    @property
    def constant_size(self) -> bool:
        """Whether a session's state is a fixed number of bytes at any length of stream."""
        return not any(isinstance(layer, GrowingLayerConfig) for layer in self.layers)

    @property
    def token_window(self) -> int:
        """Token ids that the state keeps, so that a retained token can name its text."""
        return max((x.window for x in self.layers if isinstance(x, LTEConfig)), default=0)

    def to_json(self) -> str:
        """Return a stable text: the same config gives the same bytes."""
        body = asdict(self)
        body["layers"] = layers_to_json(self.layers)
        return json.dumps(body, indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> ModelConfig:
        """Read what `to_json` wrote. Unknown or missing keys raise ConfigError."""
        try:
            body = json.loads(text)
        except json.JSONDecodeError as error:
            raise ConfigError("config", f"is not JSON: {error}") from error
        _check_keys(cls, body, "config")
        return cls(**{**body, "layers": layers_from_json(body["layers"])})


def layers_to_json(layers: Iterable[LayerConfig]) -> list[dict[str, Any]]:
    """Return layers as JSON can hold them."""
    return [{"kind": layer.kind, **asdict(layer)} for layer in layers]


def layers_from_json(body: Any) -> tuple[LayerConfig, ...]:
    """Read what `layers_to_json` returned. Raises ConfigError."""
    _require(isinstance(body, list), "layers", "must be a list")
    return tuple(_layer_from_json(f"layers[{i}]", x) for i, x in enumerate(body))


def _layer_from_json(name: str, body: Any) -> LayerConfig:
    _require(isinstance(body, dict), name, "must be an object")
    kind = body.get("kind")
    _require(kind in _LAYER_KINDS, f"{name}.kind", f"must be one of {sorted(_LAYER_KINDS)}")
    layer_type = _LAYER_KINDS[kind]
    rest = {key: value for key, value in body.items() if key != "kind"}
    _check_keys(layer_type, rest, name)
    return layer_type(**rest)


def _check_keys(config_type: type[Any], body: Any, name: str) -> None:
    _require(isinstance(body, dict), name, "must be an object")
    known = {f.name for f in fields(config_type)}
    needed = {f.name for f in fields(config_type) if f.default is MISSING}
    unknown, missing = sorted(set(body) - known), sorted(needed - set(body))
    _require(not unknown, name, f"has unknown keys {unknown}; known are {sorted(known)}")
    _require(not missing, name, f"lacks the keys {missing}")
