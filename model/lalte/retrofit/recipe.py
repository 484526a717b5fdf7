"""The whole retrofit from one config: scan, branches, harvest, routers, calibrate, pack.

Each stage goes on where it was stopped.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import torch

from lalte.checkpoints.adapter import read_adapter, write_adapter
from lalte.checkpoints.folder import STORED_DTYPE
from lalte.checkpoints.load import load_model
from lalte.config import LocalGDNConfig, LTEConfig
from lalte.model import LaLTE
from lalte.retrofit.branches import BranchFitting
from lalte.retrofit.calibration import calibrate
from lalte.retrofit.comparison import compare, held_out, served_perplexity
from lalte.retrofit.corpus import read_corpus
from lalte.retrofit.data import StreamShape, StreamWriter
from lalte.retrofit.errors import RetrofitError
from lalte.retrofit.fit import SURVIVAL_LENGTHS, Fitting
from lalte.retrofit.harvest import HarvestPlan, harvest, read_shard
from lalte.retrofit.lessons import Lessons
from lalte.retrofit.plain_text import PlainText
from lalte.retrofit.replies import write_replies
from lalte.retrofit.scan import scan
from lalte.retrofit.student import Student
from lalte.retrofit.survival import survival
from lalte.retrofit.voices import EVALUATION_VOICES, TRAINING_VOICES
from lalte.state import nbytes

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from lalte.checkpoints.load import LoadedModel
    from lalte.config import LayerConfig, ModelConfig
    from lalte.retrofit.branches import PhaseKind
    from lalte.retrofit.config import DistillConfig, PhaseConfig, RetrofitConfig, StreamsConfig
    from lalte.text import Tokenizer

_log = logging.getLogger(__name__)

ADAPTER_FILE = "adapter.safetensors"
RESULT_FILE = "result.json"

_LESSON_FACTS = (4, 8)  # in a stream that is distilled on

_NOTE = (
    "Facts that stand out from ordinary text are retained beyond the window; most ordinary text is "
    "not."
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
    student = _branches(loaded, config, places)
    target = replace(loaded.config, layers=_layers(loaded.config, config, student))
    training = _harvest(loaded, student, target, config, places, "training")
    validation = _harvest(loaded, student, target, config, places, "validation")
    ordinary = _harvest(loaded, student, target, config, places, "ordinary")

    fitting = Fitting(
        target,
        config.fit,
        config.seed,
        [*training, *ordinary],
        digit_tokens(loaded.tokenizer, loaded.config.vocab_size),
        places.run,
    )
    routers = fitting.fit(validation)
    calibrate(routers, (read_shard(path) for path in ordinary), config.calibration)
    path = places.result / ADAPTER_FILE
    tensors = routers.export(STORED_DTYPE) | student.export(STORED_DTYPE)
    source_sha256 = loaded.manifest.provenance.source_sha256
    write_adapter(path, target.layers, tensors, source_sha256, _note(student))
    measured = survival(routers, (read_shard(path) for path in validation), SURVIVAL_LENGTHS)
    result = {
        "adapter_sha256": read_adapter(path).sha256,
        "base": loaded.manifest.provenance.source,
        "base_sha256": source_sha256,
        "data_sha256": read_corpus(places.data, config.held_out_books, held_out=False).sha256,
        "gdn_layers": sorted(student.branches),
        "perplexity": _compare(loaded, student, target, tensors, config, places),
        "seed": config.seed,
        "state_bytes": nbytes(target, STORED_DTYPE),
        "steps": fitting.steps,
        "survival": [asdict(x) for x in measured],
    }
    text = json.dumps(result, indent=1, sort_keys=True) + "\n"
    (places.result / RESULT_FILE).write_text(text, encoding="utf-8")
    _log.info("wrote %s", path)
    return path


def _branches(loaded: LoadedModel, config: RetrofitConfig, places: Places) -> Student:
    """Choose the layers that become GDN and fit them; a student without any where none does."""
    if config.gdn is None:
        return Student(loaded.model, {}, config.seed)
    text = _text(loaded, config, places, held_out=False)
    layers = config.gdn.layers
    if layers is None:
        layers = _scan(loaded, text, config, places)
    kind = LocalGDNConfig(config.gdn.window, config.gdn.rank, sinks=config.gdn.sinks)
    student = Student(loaded.model, dict.fromkeys(layers, kind), config.seed)
    phases: list[tuple[PhaseKind, PhaseConfig]] = [
        ("teacher", config.gdn.teacher),
        ("own", config.gdn.own),
    ]
    if config.distill is not None:
        phases.append(("distill", config.distill))
    for name, phase in phases:
        if phase.tokens % loaded.config.chunk:
            raise RetrofitError(
                f"{name}.tokens", f"must be a multiple of the chunk, {loaded.config.chunk}"
            )
    sources: dict[PhaseKind, PlainText | Lessons] = {"teacher": text, "own": text}
    if config.distill is not None:
        sources["distill"] = _lessons(loaded, text, config, config.distill, places)

    def write(kind: PhaseKind, index: int, length: int) -> torch.Tensor:
        return sources[kind].write(config.seed, index, length)

    return BranchFitting(student, write, places.run).fit(phases, config.gdn.checkpoint_steps)


def _lessons(
    loaded: LoadedModel,
    text: PlainText,
    config: RetrofitConfig,
    distill: DistillConfig,
    places: Places,
) -> Lessons:
    return Lessons(
        text,
        StreamWriter(
            read_corpus(places.data, config.held_out_books, held_out=False),
            TRAINING_VOICES,
            loaded.tokenizer,
            loaded.turn_format,
            StreamShape(distill.tokens * 2 // 3, _LESSON_FACTS),
        ),
        write_replies(loaded, config.seed, distill.replies, distill.reply_tokens, places.run),
        loaded.turn_format,
        distill.memory,
        distill.chat,
    )


def _scan(
    loaded: LoadedModel, text: PlainText, config: RetrofitConfig, places: Places
) -> tuple[int, ...]:
    plan, gdn = config.scan, config.gdn
    assert plan is not None  # noqa: S101 - the config has checked it
    assert gdn is not None  # noqa: S101
    # Sequences that no branch is fitted to.
    sequences = [text.write(config.seed + 1, i, plan.tokens) for i in range(plan.sequences)]
    teacher = Student(loaded.model, {}, config.seed)
    return tuple(scan(teacher, sequences, plan, places.run, sinks=gdn.sinks))


def _layers(base: ModelConfig, config: RetrofitConfig, student: Student) -> tuple[LayerConfig, ...]:
    """Return every layer of the adapted model: GDN where there is a branch, else LTE."""
    sparse = [layer for layer in base.layers if isinstance(layer, LTEConfig)]
    if not sparse:
        raise RetrofitError(
            "the base model", "has no LTE layer; give a folder from `model convert`"
        )
    layers: list[LayerConfig] = []
    for index, layer in enumerate(base.layers):
        if index in student.branches:
            layers.append(student.model.config.layers[index])
            continue
        kept = layer if isinstance(layer, LTEConfig) else sparse[0]
        if index in config.budgets:
            kept = replace(kept, budgets=(config.budgets[index],) * base.num_kv_heads)
        layers.append(kept)
    return tuple(layers)


def _note(student: Student) -> str:
    if not student.branches:
        return "The routers are trained, no layer is GDN: every layer is LTE. " + _NOTE
    names = ", ".join(map(str, sorted(student.branches)))
    return f"The routers are trained, and layers {names} are GDN beside a small window. " + _NOTE


def _compare(
    loaded: LoadedModel,
    student: Student,
    target: ModelConfig,
    tensors: Mapping[str, torch.Tensor],
    config: RetrofitConfig,
    places: Places,
) -> dict[str, float]:
    """Perplexity of the teacher on held-out books, and the ratios to it, as `compare` names them.

    "adapted": the whole adapted model, as it is served.
    """
    if config.comparison is None:
        return {}
    text = _text(loaded, config, places, held_out=True)
    sequences = held_out(text, config.comparison, config.seed)
    sinks = max(layer.sinks for layer in target.layers if isinstance(layer, LTEConfig))
    windows = config.comparison.windows if student.branches else ()
    ratios = compare(student, sequences, windows, sinks)
    model = LaLTE(target, STORED_DTYPE)
    base = loaded.model.state_dict()
    model.load_state_dict({name: tensors.get(name, base.get(name)) for name in model.state_dict()})
    served = served_perplexity(model, sequences)
    return ratios | {"adapted": round(served / ratios["teacher"], 4)}


def _text(
    loaded: LoadedModel, config: RetrofitConfig, places: Places, *, held_out: bool
) -> PlainText:
    corpus = read_corpus(places.data, config.held_out_books, held_out=held_out)
    return PlainText(corpus, loaded.tokenizer, loaded.turn_format)


def digit_tokens(tokenizer: Tokenizer, vocab_size: int) -> torch.Tensor:
    """Which tokens contain a digit: bool [vocab]."""
    digits = torch.zeros(vocab_size, dtype=torch.bool)
    for token in range(tokenizer.vocab_size):
        digits[token] = any(b"0"[0] <= byte <= b"9"[0] for byte in tokenizer.token_bytes(token))
    return digits


def _harvest(
    loaded: LoadedModel,
    student: Student,
    target: ModelConfig,
    config: RetrofitConfig,
    places: Places,
    kind: str,
) -> list[Path]:
    """Harvest one kind of streams for the target's LTE layers: training, validation or ordinary."""
    held_out = kind == "validation"
    streams: StreamsConfig = getattr(config.harvest, kind)
    corpus = read_corpus(places.data, config.held_out_books, held_out=held_out)
    voices = TRAINING_VOICES if kind == "training" else EVALUATION_VOICES
    plan = HarvestPlan(
        # The three kinds must not share streams.
        seed=config.seed + ("training", "validation", "ordinary").index(kind),
        layers=tuple(i for i, x in enumerate(target.layers) if isinstance(x, LTEConfig)),
        window=target.token_window,
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
    return harvest(student.model, writer, plan, streams.count, places.run / kind)
