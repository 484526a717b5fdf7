"""Fits the routers to shards; resumable, and the same whether it was interrupted or not."""

from __future__ import annotations

import json
import logging
import time
from typing import TYPE_CHECKING, Any

import torch

from lalte.retrofit.harvest import read_shard
from lalte.retrofit.objective import (
    ThresholdBank,
    make_targets,
    ranking_loss,
    regression_loss,
)
from lalte.retrofit.routers import HeadRouters
from lalte.retrofit.survival import survival

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from lalte.config import ModelConfig
    from lalte.retrofit.config import FitConfig

_log = logging.getLogger(__name__)

CHECKPOINT_FILE = "fit.pt"
LOG_FILE = "fit.jsonl"
SURVIVAL_LENGTHS = (2048, 8192, 32768, 131072)
_STATISTICS_SHARDS = 24
_LAST_RATE = 0.1  # of the learning rate, at the end


class Fitting:
    """One fit: routers, optimiser, bank and step, in memory and in the run folder."""

    def __init__(
        self,
        model_config: ModelConfig,
        config: FitConfig,
        seed: int,
        shards: Sequence[Path],
        digits: torch.Tensor,
        run: Path,
    ) -> None:
        """`digits`: bool [vocab], see `make_targets`. `run`: folder of checkpoint and log."""
        self._config = config
        self._seed = seed
        self._shards = shards
        self._digits = digits
        self._run = run
        generator = torch.Generator().manual_seed(seed)
        self.routers = HeadRouters(model_config, generator, future=config.future)
        self._sinks = max(layer.sinks for _, layer in self.routers.lte_layers)
        self._bank = ThresholdBank(
            config.bank_decay,
            config.sharpness,
            config.reference_tokens / self.routers.budgets().clamp_min(1),
        )
        self._optimiser = torch.optim.AdamW(
            self.routers.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        self.steps = config.epochs * len(shards)
        self.step = 0
        run.mkdir(parents=True, exist_ok=True)

    def fit(self, validation: Sequence[Path], stop: int | None = None) -> HeadRouters:
        """Go on to the last step, or to `stop`; returns the routers in their training form."""
        if not self._resume():
            self._standardise()
        last = self.steps if stop is None else min(stop, self.steps)
        while self.step < last:
            started = time.monotonic()
            facts = self._advance()
            self._note(facts | {"seconds": round(time.monotonic() - started, 3)})
            if self.step % len(self._shards) == 0 or self.step == self.steps:
                self._measure(validation)
            if self.step % self._config.checkpoint_steps == 0 or self.step == last:
                self._save()
        return self.routers

    def _advance(self) -> dict[str, float]:
        """Take one optimiser step on one shard."""
        epoch, place = divmod(self.step, len(self._shards))
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + epoch)
        order = torch.randperm(len(self._shards), generator=generator)
        shard = read_shard(self._shards[int(order[place])])
        targets = make_targets(shard, self._sinks, self._config.whole_value, self._digits)

        scores = self.routers(shard.k, shard.v, torch.bfloat16)
        regression = regression_loss(scores, targets)
        ranking = ranking_loss(scores, targets, self._bank.threshold(scores, targets.ordinary))
        loss = regression + self._config.ranking * ranking

        left = 1 - self.step / self.steps
        for group in self._optimiser.param_groups:
            group["lr"] = self._config.learning_rate * (_LAST_RATE + (1 - _LAST_RATE) * left)
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimiser.step()
        self.step += 1
        return {"regression": float(regression.detach()), "ranking": float(ranking.detach())}

    def _measure(self, validation: Sequence[Path]) -> None:
        if not validation:
            return
        shards = (read_shard(path) for path in validation)
        for result in survival(self.routers, shards, SURVIVAL_LENGTHS):
            self._note({"survival": vars(result)})
            _log.info(
                "step %d of %d: at %d tokens %.3f of wanted attention and %.3f of values survive",
                self.step,
                self.steps,
                result.tokens,
                result.wanted,
                result.values,
            )

    def _standardise(self) -> None:
        """Set the routers' input statistics from the first shards."""
        count, total, squares = 0, torch.zeros(1), torch.zeros(1)
        for path in self._shards[:_STATISTICS_SHARDS]:
            shard = read_shard(path)
            x = torch.cat([shard.k, shard.v], dim=-1).flatten(0, 1).double()
            count += x.shape[1]
            total, squares = total + x.sum(dim=1), squares + x.square().sum(dim=1)
        mean = total / count
        self.routers.mean.copy_(mean)
        self.routers.std.copy_((squares / count - mean.square()).clamp_min(1e-6).sqrt())

    def _note(self, facts: dict[str, Any]) -> None:
        with (self._run / LOG_FILE).open("a", encoding="utf-8") as log:
            log.write(json.dumps({"step": self.step, **facts}) + "\n")

    def _save(self) -> None:
        draft = self._run / f"{CHECKPOINT_FILE}.draft"
        torch.save(
            {
                "step": self.step,
                "routers": self.routers.state_dict(),
                "optimiser": self._optimiser.state_dict(),
                "bank": self._bank.log_mean,
            },
            draft,
        )
        draft.replace(self._run / CHECKPOINT_FILE)

    def _resume(self) -> bool:
        path = self._run / CHECKPOINT_FILE
        if not path.exists():
            return False
        saved = torch.load(path, weights_only=True)
        self.step = saved["step"]
        self.routers.load_state_dict(saved["routers"])
        self._optimiser.load_state_dict(saved["optimiser"])
        self._bank.log_mean = saved["bank"]
        _log.info("going on from step %d of %d", self.step, self.steps)
        return True
