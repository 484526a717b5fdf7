"""What a training run is told: one YAML file, checked, frozen and handed down."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from lalte.settings import Section, read_settings
from lalte.train.errors import TrainError

Count = Annotated[int, Field(gt=0)]
Whole = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, lt=1)]


class TokensConfig(Section):
    """Text. files: made by `memoryd data tokenize`, relative to the run's file or absolute."""

    kind: Literal["tokens"] = "tokens"
    files: Annotated[tuple[Path, ...], Field(min_length=1)]


class TaskConfig(Section):
    """A synthetic task instead of text; see `lalte.train.tasks`."""

    kind: Literal["mqar", "needle"]
    pairs: Count


class TopicsConfig(Section):
    """Documents with words of their own instead of text; see `lalte.train.topics`."""

    kind: Literal["topics"]
    words: Count


class OptimiserConfig(Section):
    """AdamW; the defaults are the paper's.

    last_share: what is left of the learning rate at the end of its cosine. clip: largest norm of
    the gradient.
    """

    learning_rate: Positive = 3e-4
    warmup_steps: Whole = 512
    last_share: Share = 0.1
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    betas: tuple[Share, Share] = (0.9, 0.95)
    clip: Positive = 1.0


class PenaltyConfig(Section):
    """The L1 penalty on retention scores; see `lalte.train.penalty`.

    From 1e-9 to 1e-3 the controller takes some 1,100 steps: short runs need a higher floor.
    dropout: before each convolution of the router.
    """

    update_steps: Annotated[int, Field(gt=1)] = 32
    raise_factor: Annotated[float, Field(gt=1)] = 1.5
    lower_factor: Annotated[float, Field(gt=1)] = 2.0
    tolerance: Share = 0.95
    floor: Positive = 1e-9
    ceiling: Positive = 1.0
    dropout: Share = 0.1


class TrainConfig(Section):
    """A whole run.

    model: name of a preset, or a file with a model's config.json. length: tokens of a sequence.
    batch: sequences of a step, over all processes. micro_batch: sequences that one process takes
    through the model at once; the rest is accumulated. precision: of the products; the parameters
    themselves are fp32 always. strategy: how processes share the work. checkpoint_steps: steps
    between checkpoints, of which the newest two are kept.
    """

    seed: int = 0
    model: str
    data: TokensConfig | TaskConfig | TopicsConfig = Field(discriminator="kind")
    length: Count
    steps: Count
    batch: Count
    micro_batch: Count
    precision: Literal["bfloat16", "float32"] = "bfloat16"
    threads: Count | None = None
    strategy: Literal["ddp", "fsdp2"] = "ddp"
    optimiser: OptimiserConfig = OptimiserConfig()
    penalty: PenaltyConfig = PenaltyConfig()
    checkpoint_steps: Count = 500
    tensorboard: bool = False


def read_train_config(path: Path) -> TrainConfig:
    """Read a run's YAML file. Raises TrainError naming each setting that does not fit."""
    return read_settings(path, TrainConfig, TrainError)
