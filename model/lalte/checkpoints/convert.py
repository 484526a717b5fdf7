"""Converts a Llama-architecture checkpoint into a laLTE model folder, nothing trained.

Every attention layer becomes an LTE layer with the same weights. Its router is new, and until it is
trained it follows a fixed rule: all its weights are zero and the projection's bias is 0.5, so that
every token's retention logit is 0.5. Every token is kept until the budget is full; from then on all
tie and the older wins, so the memory keeps the oldest.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import torch

from lalte.checkpoints.errors import CheckpointError
from lalte.checkpoints.folder import stored_tensors, write_model_folder
from lalte.checkpoints.gguf import read_gguf
from lalte.checkpoints.manifest import UNTRAINED, Manifest, Provenance
from lalte.checkpoints.safetensors import read_safetensors
from lalte.names import llama_name_map, router_parameter_names
from lalte.presets import llama_lalte
from lalte.text import Tokenizer, TurnFormat, derive_turn_format

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

    from lalte.checkpoints.hub_folder import TextFiles
    from lalte.checkpoints.llama import LlamaCheckpoint
    from lalte.config import EvictionGrid, ModelConfig, Positions

UNTRAINED_ROUTER_BIAS = 0.5

_UNTRAINED_NOTE = (
    "The routers are untrained and no layer is GDN: every layer is LTE, every token is kept until "
    "a head's budget is full, and from then on the oldest tokens stay. The model remembers the "
    "beginning of a stream and its latest window, and forgets what lies between."
)
PLAIN_NOTE = (
    "The checkpoint has no chat template: turns are not framed, and only its end-of-text tokens "
    "end a reply."
)


@dataclass(frozen=True, slots=True)
class LayoutOptions:
    """The memory of the converted model, in tokens.

    window and budget: per LTE layer, the budget per KV head; sinks stand inside the budget.
    chunk: how many tokens are absorbed at a time.
    position_span: the largest distance of a retained token under bounded positions.
    """

    window: int = 256
    budget: int = 256
    sinks: int = 4
    chunk: int = 64
    eviction_grid: EvictionGrid = "chunk"
    positions: Positions = "bounded"
    position_span: int = 1024


def read_llama(source: Path) -> LlamaCheckpoint:
    """Read a GGUF file or a Hugging Face folder. Raises CheckpointError."""
    if source.is_dir():
        return read_safetensors(source)
    if not source.is_file():
        raise CheckpointError(source, "does not exist")
    return read_gguf(source)


def convert(
    source: Path,
    dest: Path,
    *,
    options: LayoutOptions | None = None,
    origin: str = "",
    license_id: str = "",
    source_files: Mapping[str, str] | None = None,
) -> Manifest:
    """Convert `source`, a GGUF file or a Hugging Face folder, into the model folder `dest`.

    origin, license_id: what the manifest says, where the source itself does not know better.
    source_files: sha256 of the files that were downloaded, by name.
    Raises CheckpointError, ConfigError (options that make no model) or TextError.
    """
    checkpoint = read_llama(source)
    config = llama_lalte(**asdict(checkpoint.dimensions), **asdict(options or LayoutOptions()))
    tokenizer = Tokenizer.from_json(checkpoint.tokenizer_json)
    if tokenizer.vocab_size > config.vocab_size:
        raise CheckpointError(
            source,
            f"its tokenizer has {tokenizer.vocab_size} tokens, its embedding {config.vocab_size}",
        )
    turn_format = turn_format_of(checkpoint, tokenizer)
    notes = (_UNTRAINED_NOTE, PLAIN_NOTE) if turn_format.origin == "plain" else (_UNTRAINED_NOTE,)
    return write_model_folder(
        dest,
        config=config,
        tensors=retrofit_tensors(checkpoint, config),
        tokenizer_json=checkpoint.tokenizer_json,
        turn_format=turn_format,
        provenance=Provenance(
            name=dest.name,
            source=origin or checkpoint.name,
            source_sha256=checkpoint.sha256,
            routers=UNTRAINED,
            license=checkpoint.license or license_id,
            notes=notes,
            source_files=source_files or {},
        ),
    )


def turn_format_of(checkpoint: LlamaCheckpoint | TextFiles, tokenizer: Tokenizer) -> TurnFormat:
    """Derive the checkpoint's turn format; plain where it has no chat template."""
    if checkpoint.chat_template is not None:
        return derive_turn_format(
            checkpoint.chat_template,
            tokenizer,
            bos=checkpoint.bos,
            eos=checkpoint.eos,
            stop_ids=checkpoint.stop_ids,
        )
    begin = (tokenizer.special_id(checkpoint.bos),) if checkpoint.add_bos else ()
    return TurnFormat.plain(checkpoint.stop_ids, begin)


def retrofit_tensors(checkpoint: LlamaCheckpoint, config: ModelConfig) -> dict[str, Tensor]:
    """Name the checkpoint's tensors as ours and add untrained routers."""
    ours = {new: checkpoint.tensors[old] for old, new in llama_name_map(config).items()}
    shapes = stored_tensors(config)
    for name in router_parameter_names(config):
        value = UNTRAINED_ROUTER_BIAS if name.endswith("proj.bias") else 0.0
        ours[name] = torch.full(shapes[name].shape, value)
    return ours
