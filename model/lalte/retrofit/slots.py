"""Proposes a recipe's budgets: slots for the layers whose memory the answers hang on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from lalte.checkpoints.load import load_model
from lalte.config import LTEConfig
from lalte.retrofit.ablation import ablate, allocate
from lalte.retrofit.corpus import read_corpus
from lalte.retrofit.data import StreamShape, StreamWriter
from lalte.retrofit.errors import RetrofitError
from lalte.retrofit.student import Student
from lalte.retrofit.voices import TRAINING_VOICES

if TYPE_CHECKING:
    from pathlib import Path

    from lalte.retrofit.config import RetrofitConfig

# Of streams, away from the seeds of all that is harvested.
_SEED = 1000


def propose_budgets(
    config: RetrofitConfig, base: Path, data: Path, *, streams: int, mean: int, least: int
) -> tuple[dict[int, int], dict[int, float]]:
    """Return slots per KV head by layer, and what each layer's forgetting costs, in nats a token.

    streams: how many are read, of the recipe's training shape. mean, least: slots for a KV head.
    Raises RetrofitError (data, or a base without LTE layers) or CheckpointError (the base model).
    """
    torch.set_num_threads(config.threads)
    loaded = load_model(base)
    sparse = {i: x for i, x in enumerate(loaded.config.layers) if isinstance(x, LTEConfig)}
    if not sparse:
        raise RetrofitError(base, "has no LTE layer; give a folder from `model convert`")
    replaced = config.gdn.layers if config.gdn and config.gdn.layers else ()
    lte = next(iter(sparse.values()))
    shape = config.harvest.training
    writer = StreamWriter(
        read_corpus(data, config.held_out_books, held_out=False),
        TRAINING_VOICES,
        loaded.tokenizer,
        loaded.turn_format,
        StreamShape(shape.tokens, shape.facts),
    )
    found = ablate(
        Student(loaded.model, {}, config.seed).model,
        (writer.write(config.seed + _SEED, index) for index in range(streams)),
        [index for index in sparse if index not in replaced],
        lte.window,
        lte.sinks,
    )
    most = loaded.config.position_span - lte.window
    return allocate(found.costs, mean, least, most), found.costs
