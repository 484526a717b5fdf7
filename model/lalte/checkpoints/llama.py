"""A Llama-architecture checkpoint in memory, whatever file it came from.

Tensors carry the names and layouts of transformers' LlamaForCausalLM.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lalte.checkpoints.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class LlamaDimensions:
    """The sizes of a Llama model; max_position is the length it was trained to, in tokens."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float
    rope_theta: float
    tie_embeddings: bool
    max_position: int

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every tensor that such a checkpoint holds."""
        hidden, inner = self.hidden_size, self.intermediate_size
        queries, keys = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        shapes: dict[str, tuple[int, ...]] = {
            "model.embed_tokens.weight": (self.vocab_size, hidden),
            "model.norm.weight": (hidden,),
        }
        if not self.tie_embeddings:
            shapes["lm_head.weight"] = (self.vocab_size, hidden)
        block: dict[str, tuple[int, ...]] = {
            "input_layernorm.weight": (hidden,),
            "self_attn.q_proj.weight": (queries, hidden),
            "self_attn.k_proj.weight": (keys, hidden),
            "self_attn.v_proj.weight": (keys, hidden),
            "self_attn.o_proj.weight": (hidden, queries),
            "post_attention_layernorm.weight": (hidden,),
            "mlp.gate_proj.weight": (inner, hidden),
            "mlp.up_proj.weight": (inner, hidden),
            "mlp.down_proj.weight": (hidden, inner),
        }
        for i in range(self.num_layers):
            shapes |= {f"model.layers.{i}.{name}": shape for name, shape in block.items()}
        return shapes


@dataclass(frozen=True, slots=True)
class LlamaCheckpoint:
    """Everything that a conversion needs.

    tensors: by LlamaForCausalLM's names; any float dtype.
    tokenizer_json: the text of a tokenizer.json.
    bos, eos: texts of those tokens, "" for none. add_bos: whether every stream starts with bos.
    stop_ids: the ids that the checkpoint names as ends of text.
    sha256: of the weights file (of all of them, in order, when there are several).
    """

    name: str
    dimensions: LlamaDimensions
    tensors: Mapping[str, Tensor]
    tokenizer_json: str
    chat_template: str | None
    bos: str
    eos: str
    add_bos: bool
    stop_ids: frozenset[int]
    license: str
    sha256: str


Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Misfits:
    """Tensors that a model has and a file lacks, the reverse, and those whose shapes differ."""

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    misshaped: tuple[tuple[str, str], ...]  # name, and its shape instead of the right one

    @classmethod
    def between(cls, expected: Shapes, found: Shapes) -> Misfits:
        return cls(
            tuple(sorted(expected.keys() - found.keys())),
            tuple(sorted(found.keys() - expected.keys())),
            tuple(
                (name, f"{list(found[name])} instead of {list(shape)}")
                for name, shape in expected.items()
                if name in found and found[name] != shape
            ),
        )

    def sentences(self, limit: int) -> list[str]:
        """One for each kind of misfit that there is, naming at most `limit` tensors."""
        kinds = {
            "missing": self.missing,
            "unexpected": self.unexpected,
            "of the wrong shape": tuple(map(" ".join, self.misshaped)),
        }
        return [_some(what, names, limit) for what, names in kinds.items() if names]


def check_tensors(source: str, expected: Shapes, found: Shapes) -> None:
    """Compare names and shapes. Raises CheckpointError that names each tensor that does not fit."""
    problems = Misfits.between(expected, found).sentences(limit=6)
    if problems:
        raise CheckpointError(source, "its tensors do not fit the model: " + "; ".join(problems))


def _some(what: str, names: tuple[str, ...], limit: int) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return f"{what}: {', '.join(names[:limit])}{more}"
