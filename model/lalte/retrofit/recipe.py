"""The whole retrofit from one config: harvest, fit, calibrate, pack.

Each stage goes on where it was stopped.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import torch

from lalte.checkpoints.adapter import read_adapter, write_adapter
from lalte.checkpoints.folder import STORED_DTYPE
from lalte.checkpoints.load import load_model
from lalte.config import LTEConfig
from lalte.retrofit.calibration import calibrate
from lalte.retrofit.corpus import read_corpus
from lalte.retrofit.data import StreamShape, StreamWriter
from lalte.retrofit.fit import SURVIVAL_LENGTHS, Fitting
from lalte.retrofit.harvest import HarvestPlan, harvest, read_shard
from lalte.retrofit.survival import survival
from lalte.retrofit.voices import EVALUATION_VOICES, TRAINING_VOICES

if TYPE_CHECKING:
    from pathlib import Path

    from lalte.checkpoints.load import LoadedModel
    from lalte.retrofit.config import RetrofitConfig, StreamsConfig
    from lalte.text import Tokenizer

_log = logging.getLogger(__name__)

ADAPTER_FILE = "adapter.safetensors"
RESULT_FILE = "result.json"

_NOTE = (
    "The routers are trained, no layer is GDN: every layer is LTE. Facts that stand out from "
    "ordinary text are retained beyond the window; most ordinary text is not."
)


@dataclass(frozen=True)
class Places:
    """Where things are: base model folder, data folder, run folder (large), result folder."""

    base: Path
    data: Path
    run: Path
    result: Path


def retrofit(config: RetrofitConfig, places: Places) -> Path:
    """Run what is left of the recipe; returns the adapter's path.

    Raises RetrofitError (data, shards of another plan) or CheckpointError (the base model).
    """
    torch.set_num_threads(config.threads)
    loaded = load_model(places.base)
    training = _harvest(loaded, config, places, "training")
    validation = _harvest(loaded, config, places, "validation")
    ordinary = _harvest(loaded, config, places, "ordinary")

    fitting = Fitting(
        loaded.config,
        config.fit,
        config.seed,
        training,
        digit_tokens(loaded.tokenizer, loaded.config.vocab_size),
        places.run,
    )
    routers = fitting.fit(validation)
    calibrate(
        routers, (read_shard(path) for path in ordinary), config.calibration.saturation_tokens
    )
    path = places.result / ADAPTER_FILE
    write_adapter(
        path, routers.export(STORED_DTYPE), loaded.manifest.provenance.source_sha256, _NOTE
    )
    measured = survival(routers, (read_shard(path) for path in validation), SURVIVAL_LENGTHS)
    result = {
        "adapter_sha256": read_adapter(path).sha256,
        "base": loaded.manifest.provenance.source,
        "base_sha256": loaded.manifest.provenance.source_sha256,
        "data_sha256": read_corpus(places.data, config.held_out_books, held_out=False).sha256,
        "seed": config.seed,
        "steps": fitting.steps,
        "survival": [asdict(x) for x in measured],
    }
    text = json.dumps(result, indent=1, sort_keys=True) + "\n"
    (places.result / RESULT_FILE).write_text(text, encoding="utf-8")
    _log.info("wrote %s", path)
    return path


def digit_tokens(tokenizer: Tokenizer, vocab_size: int) -> torch.Tensor:
    """Which tokens contain a digit: bool [vocab]."""
    digits = torch.zeros(vocab_size, dtype=torch.bool)
    for token in range(tokenizer.vocab_size):
        digits[token] = any(b"0"[0] <= byte <= b"9"[0] for byte in tokenizer.token_bytes(token))
    return digits


def _harvest(loaded: LoadedModel, config: RetrofitConfig, places: Places, kind: str) -> list[Path]:
    """Harvest one kind of streams: training, validation or ordinary."""
    held_out = kind == "validation"
    streams: StreamsConfig = getattr(config.harvest, kind)
    corpus = read_corpus(places.data, config.held_out_books, held_out=held_out)
    voices = TRAINING_VOICES if kind == "training" else EVALUATION_VOICES
    plan = HarvestPlan(
        # The three kinds must not share streams.
        seed=config.seed + ("training", "validation", "ordinary").index(kind),
        layers=tuple(i for i, x in enumerate(loaded.config.layers) if isinstance(x, LTEConfig)),
        window=loaded.config.token_window,
        general_queries=config.harvest.general_queries,
        templates="training" if kind == "training" else "evaluation",
        tokens=streams.tokens,
        facts=streams.facts,
        base_sha256=loaded.manifest.provenance.source_sha256,
        data_sha256=corpus.sha256,
    )
    writer = StreamWriter(
        corpus,
        voices,
        loaded.tokenizer,
        loaded.turn_format,
        StreamShape(streams.tokens, streams.facts),
    )
    return harvest(loaded.model, writer, plan, streams.count, places.run / kind)
