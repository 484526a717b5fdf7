"""The training loop: the same steps and bits whether it was interrupted or not."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from typing import TYPE_CHECKING, Any, Protocol

import torch

from lalte.config import ModelConfig
from lalte.family import PRESETS
from lalte.init import init_weights
from lalte.model import LaLTE
from lalte.train.checkpoint import checkpoints, load_checkpoint, save_checkpoint
from lalte.train.config import TokensConfig, TopicsConfig
from lalte.train.errors import TrainError
from lalte.train.optimiser import learning_rate, make_optimiser
from lalte.train.parallel import ParallelModel
from lalte.train.penalty import PenaltyController
from lalte.train.ranks import share_out, without_sync
from lalte.train.tasks import IGNORED, RecallTask, TaskBatches
from lalte.train.tokens import PackedTokens, TokenFile
from lalte.train.topics import TopicTask

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from lalte.train.config import TaskConfig, TrainConfig
    from lalte.train.parallel import Score
    from lalte.train.ranks import Ranks
    from lalte.train.tasks import Task

_log = logging.getLogger(__name__)

METRICS_FILE = "metrics.jsonl"


class Batches(Protocol):
    """Where sequences come from; the same (first, row) always gives the same sequence."""

    def batch(self, first: int, rows: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]: ...


def model_config_of(config: TrainConfig, folder: Path) -> ModelConfig:
    """The model that a run's file names: a preset, or a config.json relative to `folder`."""
    if config.model in PRESETS:
        return PRESETS[config.model]()
    path = folder / config.model
    if not path.is_file():
        raise TrainError(
            "model", f"{config.model!r} is neither a file nor one of {', '.join(sorted(PRESETS))}"
        )
    return ModelConfig.from_json(path.read_text("utf-8"))


class Trainer:
    """One run. `run` is its folder: checkpoints, metrics.jsonl, TensorBoard's events."""

    def __init__(
        self,
        config: TrainConfig,
        model_config: ModelConfig,
        data: Path,
        run: Path,
        ranks: Ranks,
        *,
        score: Score | None = None,
        batches: Batches | None = None,
    ) -> None:
        """`data`: the folder that the run's files are relative to.

        score: see ParallelModel. batches: sequences from elsewhere than the config says. Raises
        TrainError.
        """
        if config.batch % (config.micro_batch * ranks.world):
            raise TrainError(
                "batch",
                f"{config.batch} sequences do not share out to {ranks.world} processes in "
                f"micro-batches of {config.micro_batch}",
            )
        self.config, self.ranks, self.run = config, ranks, run
        self._batches = batches or _batches(config, model_config, data)
        self._dtype = torch.bfloat16 if config.precision == "bfloat16" else torch.float32
        lm = LaLTE(model_config, torch.float32, ranks.device)
        init_weights(lm, config.seed)
        self.parallel = ParallelModel(lm, config.penalty.dropout, score=score)
        self.penalty = PenaltyController(model_config, config.penalty, config.length, ranks.device)
        self._shared = share_out(self.parallel, ranks, config.strategy, self._dtype)
        self.optimiser = make_optimiser(self.parallel.named_parameters(), config.optimiser)
        # What may differ from one sitting to the next is where and how fast, not what.
        movable = {"threads", "strategy", "micro_batch", "checkpoint_steps", "tensorboard"}
        self._identity = config.model_dump(mode="json", exclude=movable) | {
            "model": hashlib.sha256(model_config.to_json().encode()).hexdigest()
        }
        run.mkdir(parents=True, exist_ok=True)
        found = checkpoints(run)
        self.step = (
            load_checkpoint(found[-1], self.parallel, self.optimiser, self.penalty, self._identity)
            if found
            else 0
        )

    @property
    def model(self) -> LaLTE:
        """The model as it stands."""
        return self.parallel.lm

    def train(self, until: int | None = None, on_step: Callable[[int], None] | None = None) -> None:
        """Go on to the last step, or to `until`; `on_step` hears of each."""
        config = self.config
        last = config.steps if until is None else min(until, config.steps)
        writer = self._events() if config.tensorboard and self.ranks.rank == 0 else None
        self.parallel.train()
        while self.step < last:
            facts = self._advance()
            if self.ranks.rank == 0:
                with (self.run / METRICS_FILE).open("a", encoding="utf-8") as out:
                    out.write(json.dumps(facts) + "\n")
                if writer is not None:
                    for name, value in facts.items():
                        if isinstance(value, float):
                            writer.add_scalar(name, value, self.step)
            if self.step % config.checkpoint_steps == 0 or self.step == last:
                save_checkpoint(
                    self.run,
                    self.step,
                    self.parallel,
                    self.optimiser,
                    self.penalty,
                    self._identity,
                    self.ranks,
                )
            if on_step is not None:
                on_step(self.step)
        if writer is not None:
            writer.close()
        self.parallel.eval()

    def _advance(self) -> dict[str, Any]:
        """Take one optimiser step; returns what metrics.jsonl says of it."""
        config, ranks = self.config, self.ranks
        began = time.monotonic()
        # Dropout is a function of the step, so that a run that goes on draws what it would have.
        torch.manual_seed(config.seed * 1_000_003 + self.step * ranks.world + ranks.rank)
        inputs, targets = self._batches.batch(
            self.step * config.batch, range(ranks.rank, config.batch, ranks.world)
        )
        inputs, targets = inputs.to(ranks.device), targets.to(ranks.device)
        counted = int(ranks.total((targets != IGNORED).sum().double()))
        micro = list(
            zip(
                torch.split(inputs, config.micro_batch),
                torch.split(targets, config.micro_batch),
                strict=True,
            )
        )
        loss = torch.zeros(2, device=ranks.device)  # cross entropy and penalty, of this process
        share = torch.zeros_like(self.penalty.strength)
        for number, (x, y) in enumerate(micro, 1):
            with (
                without_sync(self._shared, last=number == len(micro)),
                torch.autocast(
                    ranks.device.type, self._dtype, enabled=self._dtype != torch.float32
                ),
            ):
                losses = self._shared(x, y, self.penalty.strength)
                # Gradients are averaged over processes, hence `world`: the sum is what is meant.
                entropy = losses.total * (ranks.world / counted)
                penalty = losses.penalty / len(micro)
                (entropy + penalty).backward()
            loss += torch.stack([entropy.detach(), penalty.detach()])
            share += losses.share / len(micro)
        norm = torch.nn.utils.clip_grad_norm_(self.parallel.parameters(), config.optimiser.clip)
        rate = learning_rate(config.optimiser, self.step, config.steps)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.step += 1
        self.penalty.observe(ranks.mean(share), self.step)
        entropy, penalty = ranks.mean(loss).tolist()
        return {
            "step": self.step,
            "loss": entropy,
            "penalty": penalty,
            "learning_rate": rate,
            "gradient_norm": float(norm),
            "tokens": self.step * config.batch * config.length,
            "seconds": round(time.monotonic() - began, 4),
            "kept": [[round(x, 2) for x in row] for row in self.penalty.kept.tolist()],
            "strength": self.penalty.strength.tolist(),
        }

    def _events(self) -> Any:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise TrainError(
                "tensorboard", "is not installed: pip install 'memoryd[train]', or set it to false"
            ) from None
        return SummaryWriter(str(self.run))


def _batches(config: TrainConfig, model_config: ModelConfig, folder: Path) -> Batches:
    if isinstance(config.data, TokensConfig):
        files = [TokenFile(folder / path) for path in config.data.files]
        for file in files:
            if file.facts.vocab_size > model_config.vocab_size:
                raise TrainError(
                    file.path,
                    f"has ids up to {file.facts.vocab_size - 1}, and the model's vocabulary ends "
                    f"at {model_config.vocab_size - 1}",
                )
        return PackedTokens(files, config.length, config.seed)
    return TaskBatches(_task(config.data, config.length, model_config.vocab_size), config.seed)


def _task(data: TaskConfig | TopicsConfig, length: int, vocab_size: int) -> Task:
    if isinstance(data, TopicsConfig):
        return TopicTask(length, data.words, vocab_size)
    return RecallTask(data.kind, length, data.pairs, vocab_size)
