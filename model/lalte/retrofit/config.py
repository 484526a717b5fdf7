"""What a retrofit is told: one YAML file, checked, frozen and handed down."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from lalte.retrofit.errors import RetrofitError
from lalte.settings import Section, read_settings

Count = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(gt=0, lt=1)]
Part = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]


class StreamsConfig(Section):
    """Streams of one kind: how many, tokens of text in each, least and most facts."""

    count: Count
    tokens: Count
    facts: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]]


class HarvestConfig(Section):
    """What the teacher reads.

    general_queries: positions of each text whose far attention is looked at.
    training and validation hold facts (told with different templates), ordinary holds none.
    """

    general_queries: Count
    training: StreamsConfig
    validation: StreamsConfig
    ordinary: StreamsConfig


class FitConfig(Section):
    """How routers are fitted.

    epochs: passes over the shards. learning_rate: AdamW's, falling linearly to a tenth.
    weight_decay: AdamW's. ranking: weight of the ranking loss beside the regression's 1.
    sharpness: how much the ranking loss looks at the highest negatives (an inverse temperature).
    reference_tokens: length of stream for which a fact must outrank ordinary tokens.
    bank_decay: of the running mean of negatives' scores, per step. whole_value: share of a value's
    best attention that each of its tokens is given at least, so that it is kept whole.
    checkpoint_steps: optimiser steps between checkpoints. future: whether a router reads the tokens
    behind the one that it scores; without them is an ablation.
    """

    epochs: Count
    learning_rate: Positive
    weight_decay: Annotated[float, Field(ge=0)]
    ranking: Annotated[float, Field(ge=0)]
    sharpness: Positive
    reference_tokens: Count
    bank_decay: Share
    whole_value: Annotated[float, Field(ge=0, le=1)]
    checkpoint_steps: Count
    future: bool = True


class CalibrationConfig(Section):
    """Where a logit is 0.

    saturation_tokens: length of ordinary text at which a head has just filled its budget; layers:
    of the heads of a layer, where it is another.
    """

    saturation_tokens: Count
    layers: dict[int, Count] = Field(default_factory=dict)


class ScanConfig(Section):
    """How the layers that become GDN are found.

    sequences, tokens: of text that the layers are tried on. window: what a layer is cut to.
    layers: how many are chosen. candidates: of so many that lose least alone.
    """

    sequences: Count
    tokens: Count
    window: Count
    layers: Count
    candidates: Count

    @model_validator(mode="after")
    def _enough(self) -> Self:
        if self.candidates < self.layers:
            raise ValueError(f"candidates must be at least layers ({self.layers})")
        return self


class PhaseConfig(Section):
    """Steps of one sequence each, of so many tokens; a multiple of the model's chunk.

    learning_rate: AdamW's; it warms up for a few steps and falls linearly to a tenth.
    """

    steps: Annotated[int, Field(ge=0)]
    tokens: Count
    learning_rate: Positive


class DistillConfig(PhaseConfig):
    """The last phase. memory, chat: shares of its sequences; see `lalte.retrofit.lessons`.

    replies: how many requests the teacher answers for it, with reply_tokens at most.
    """

    memory: Part = 0.0
    chat: Part = 0.0
    replies: Annotated[int, Field(ge=0)] = 0
    reply_tokens: Count = 80

    @model_validator(mode="after")
    def _shares(self) -> Self:
        if self.memory + self.chat > 1:
            raise ValueError("memory and chat are shares of the same sequences: at most 1 together")
        if self.chat > 0 and self.replies == 0:
            raise ValueError("chat needs replies")
        return self


class GDNConfig(Section):
    """What takes the chosen layers' place, and how each is fitted to the attention it replaces.

    layers: which, where a scan need not find them. window, rank, sinks: see `LocalGDNConfig`.
    teacher: steps on the teacher's rows, all branches at once; own: on the student's.
    """

    layers: tuple[int, ...] | None = None
    window: Count
    rank: Count
    sinks: Annotated[int, Field(ge=0)] = 0
    teacher: PhaseConfig
    own: PhaseConfig
    checkpoint_steps: Count


class ComparisonConfig(Section):
    """Perplexity on held-out books: sequences of so many tokens each, and windows to compare."""

    sequences: Count
    tokens: Count
    windows: tuple[Count, ...]


class RetrofitConfig(Section):
    """A whole recipe. Where data and results live is not part of it: those paths are flags.

    held_out_books: ids; nothing is trained on them. seed: of streams and initial weights.
    threads: of torch. scan, gdn: absent where no layer becomes GDN. distill: the branches' last
    phase, on the whole model's predictions. budgets: retained tokens of each KV head, by layer,
    where not the base's.
    """

    seed: int
    threads: Count
    held_out_books: tuple[str, ...]
    scan: ScanConfig | None = None
    gdn: GDNConfig | None = None
    distill: DistillConfig | None = None
    comparison: ComparisonConfig | None = None
    budgets: dict[int, Count] = Field(default_factory=dict)
    harvest: HarvestConfig
    fit: FitConfig
    calibration: CalibrationConfig

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.gdn is not None and self.gdn.layers is None and self.scan is None:
            raise ValueError("gdn needs layers, or a scan that finds them")
        if self.gdn is None and (self.scan is not None or self.distill is not None):
            raise ValueError("scan and distill are for gdn, which is absent")
        return self


def read_config(path: Path) -> RetrofitConfig:
    """Read a recipe's YAML file. Raises RetrofitError naming each setting that does not fit."""
    return read_settings(path, RetrofitConfig, RetrofitError)
