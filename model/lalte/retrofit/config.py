"""What a retrofit is told: one YAML file, checked, frozen and handed down."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lalte.retrofit.errors import RetrofitError

Count = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(gt=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class StreamsConfig(_Section):
    """Streams of one kind: how many, tokens of text in each, least and most facts."""

    count: Count
    tokens: Count
    facts: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]]


class HarvestConfig(_Section):
    """What the teacher reads.

    general_queries: positions of each text whose far attention is looked at.
    training and validation hold facts (told with different templates), ordinary holds none.
    """

    general_queries: Count
    training: StreamsConfig
    validation: StreamsConfig
    ordinary: StreamsConfig


class FitConfig(_Section):
    """How routers are fitted.

    epochs: passes over the shards. learning_rate: AdamW's, falling linearly to a tenth.
    weight_decay: AdamW's. ranking: weight of the ranking loss beside the regression's 1.
    sharpness: how much the ranking loss looks at the highest negatives (an inverse temperature).
    reference_tokens: length of stream for which a fact must outrank ordinary tokens.
    bank_decay: of the running mean of negatives' scores, per step. whole_value: share of a value's
    best attention that each of its tokens is given at least, so that it is kept whole.
    checkpoint_steps: optimiser steps between checkpoints.
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


class CalibrationConfig(_Section):
    """Where a logit is 0.

    saturation_tokens: length of ordinary text at which a head has just filled its budget.
    """

    saturation_tokens: Count


class RetrofitConfig(_Section):
    """A whole recipe. Where data and results live is not part of it: those paths are flags.

    held_out_books: ids; nothing is trained on them. seed: of streams and initial weights.
    threads: of torch.
    """

    seed: int
    threads: Count
    held_out_books: tuple[str, ...]
    harvest: HarvestConfig
    fit: FitConfig
    calibration: CalibrationConfig


def read_config(path: Path) -> RetrofitConfig:
    """Read a recipe's YAML file. Raises RetrofitError naming each setting that does not fit."""
    try:
        return RetrofitConfig.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise RetrofitError(path, f"cannot be read: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise RetrofitError(path, f"is not YAML: {error}") from error
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or 'the file'}: {e['msg']}" for e in error.errors()
        )
        raise RetrofitError(path, f"does not fit: {problems}") from error
