"""Trains the family at a size that a processor can train, and asks what it remembers.

Every member and every ablation of LTE's router reads the same sequences: half MQAR, half needles,
with questions farther back than any window. Then each answers fresh sequences of 1, 2, 4 and 8
times that length. Runs are resumed and finished cells are skipped, so the program may be stopped
at any time: `python bench/family.py --runs FOLDER`, then `python bench/family_table.py`.

Sequences are answered as a session answers them, through states of a fixed size and the online rule
of eviction; the ablations of the router, which no served model has, go through the form over whole
sequences with the same rule.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch.nn import functional

from lalte.config import LTEConfig, ModelConfig
from lalte.family import member
from lalte.model import LaLTE
from lalte.train.config import TrainConfig
from lalte.train.parallel import ParallelModel, Score, recent, router_logits
from lalte.train.ranks import Ranks
from lalte.train.tasks import IGNORED, RecallTask, TaskName
from lalte.train.trainer import Trainer
from lalte_kernels import Router

VOCABULARY = 256
LENGTH = 512
PAIRS = {"mqar": 32, "needle": 16}
LENGTHS = (LENGTH, 2 * LENGTH, 4 * LENGTH, 8 * LENGTH)
EXAMINED = 64  # sequences of a cell at most; longer ones are fewer
LTE_LAYERS = (1, 3)


@dataclass(frozen=True)
class Contestant:
    """What is trained. score: None is the paper's router."""

    name: str
    config: ModelConfig
    score: Score | None = None


def blind(router: Router, k: torch.Tensor, v: torch.Tensor, dropout: float) -> torch.Tensor:
    """The router's scores as if it could not see ahead: each a reach later than the paper's."""
    reach = sum((w.shape[3] - 1) * router.dilation // 2 for w in router.conv_weights)
    return functional.pad(router_logits(router, k, v, dropout)[..., :-reach], (reach, 0))


def contestants() -> list[Contestant]:
    def tiny(name: str) -> ModelConfig:
        return member(name, "tiny", VOCABULARY)

    lalte = tiny("lalte")
    alone = [
        replace(layer, router_kernel=1) if isinstance(layer, LTEConfig) else layer
        for layer in lalte.layers
    ]
    return [
        Contestant("gdn", tiny("gdn")),
        Contestant("gdn-swa", tiny("gdn-swa")),
        Contestant("lalte", lalte),
        Contestant("lansa", tiny("lansa")),
        Contestant("transformer++", tiny("transformer++")),
        Contestant("lalte, token alone", replace(lalte, layers=tuple(alone))),
        Contestant("lalte, no future", lalte, blind),
    ]


def run_config(steps: int, seed: int, rate: float) -> TrainConfig:
    return TrainConfig.model_validate(
        {
            "seed": seed,
            "model": "given",
            "data": {"kind": "mqar", "pairs": 1},
            "length": LENGTH,
            "steps": steps,
            "batch": 8,
            "micro_batch": 8,
            "precision": "float32",
            "optimiser": {"learning_rate": rate, "warmup_steps": steps // 20},
            # Of a run this short the paper's controller would see ten updates.
            "penalty": {
                "dropout": 0.0,
                "update_steps": 4,
                "raise_factor": 1.1,
                "lower_factor": 1.3,
                "floor": 1e-4,
            },
            "checkpoint_steps": 200,
        }
    )


class Mixed:
    """Sequences number 0, 2, 4 .. are MQAR, the others needles."""

    def __init__(self, length: int, seed: int) -> None:
        self._tasks = [recall(name, length) for name in PAIRS]
        self._seed = seed

    def batch(self, first: int, rows: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        drawn = [
            self._tasks[(first + row) % 2].sample(
                torch.Generator().manual_seed(self._seed * 1_000_000_007 + first + row)
            )
            for row in rows
        ]
        return torch.stack([x for x, _ in drawn]), torch.stack([y for _, y in drawn])


def recall(name: str, length: int) -> RecallTask:
    kind: TaskName = "mqar" if name == "mqar" else "needle"
    return RecallTask(kind, length, PAIRS[name], VOCABULARY)


def accuracy(
    answer: Callable[[torch.Tensor], torch.Tensor], task: RecallTask, seed: int, count: int
) -> tuple[int, int]:
    """Right answers and questions, over `count` sequences that no run was trained on."""
    right = asked = 0
    for index in range(count):
        generator = torch.Generator().manual_seed(-1 - seed * 1_000_003 - index)
        tokens, targets = task.sample(generator)
        with torch.no_grad():
            found = answer(tokens[None])[0].argmax(dim=-1)
        wanted = targets != IGNORED
        right += int((found[wanted] == targets[wanted]).sum())
        asked += int(wanted.sum())
    return right, asked


def online_visible(
    model_config: ModelConfig, config: LTEConfig, logits: torch.Tensor
) -> torch.Tensor:
    """As `kept_visible`, with budgets: at each block's start the best B of what left the window."""
    n, chunk = logits.shape[-1], model_config.chunk
    position = torch.arange(n)
    sinks = position < config.sinks
    rank = logits.masked_fill(sinks, float("inf"))
    budgets = torch.tensor(config.budgets)[None, :, None]
    kept = torch.zeros(*logits.shape[:2], n // chunk + 1, n, dtype=torch.bool)
    for block in range(n // chunk + 1):
        gone = position < block * chunk - config.window
        worth = rank.masked_fill(~gone | (rank <= 0), float("-inf"))
        order = worth.sort(dim=-1, descending=True, stable=True).indices.argsort(dim=-1)
        kept[:, :, block] = (order < budgets) & (worth > float("-inf"))
    return recent(n, config.window, logits.device, chunk) | kept[:, :, position // chunk]


def other_scores(rule: str, seed: int) -> Score:
    """Routers that a trained model is given instead of its own."""

    def score(router: Router, k: torch.Tensor, v: torch.Tensor, dropout: float) -> torch.Tensor:
        logits = router_logits(router, k, v, dropout)
        if rule == "random eviction":
            generator = torch.Generator().manual_seed(seed)
            return torch.rand(logits.shape, generator=generator) + 1
        return torch.full_like(logits, -1)  # recency alone: nothing older is kept

    return score


def examine(answer: Callable[[torch.Tensor], torch.Tensor], who: str, seed: int, out: Path) -> None:
    """Ask for each task and length that `out` does not have yet."""
    done = {
        (cell["model"], cell["seed"], cell["task"], cell["length"])
        for cell in map(json.loads, out.read_text().splitlines() if out.exists() else [])
    }
    for name in PAIRS:
        for length in LENGTHS:
            if (who, seed, name, length) in done:
                continue
            began = time.process_time()
            count = max(EXAMINED * LENGTH // length, 8)
            right, asked = accuracy(answer, recall(name, length), seed, count)
            cell = {"model": who, "seed": seed, "task": name, "length": length}
            cell |= {"right": right, "asked": asked, "accuracy": right / asked}
            cell |= {"seconds": round(time.process_time() - began, 1)}
            with out.open("a") as file:
                file.write(json.dumps(cell) + "\n")
            print(json.dumps(cell), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, required=True, help="folder for checkpoints")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--only", nargs="+", help="names of contestants")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results/family.jsonl")
    told = parser.parse_args()
    torch.set_num_threads(1)
    for seed in told.seeds:
        for who in contestants():
            if told.only is None or who.name in told.only:
                compete(who, seed, told)


def compete(who: Contestant, seed: int, told: argparse.Namespace) -> None:
    run = told.runs / f"{who.name}-{seed}".replace(" ", "-").replace(",", "")
    alone = Ranks(0, 1, torch.device("cpu"))
    trainer = Trainer(
        run_config(told.steps, seed, told.rate),
        who.config,
        run,
        run,
        alone,
        score=who.score,
        batches=Mixed(LENGTH, seed),
    )
    trainer.train()
    model = trainer.model
    whole = partial(ParallelModel, model, visible=online_visible)
    if who.score is not None:
        examine(whole(score=who.score).eval().logits, who.name, seed, told.out)
        return
    examine(model.logits, who.name, seed, told.out)
    if who.name == "lalte":
        each_token = LaLTE(replace(who.config, eviction_grid="token"))
        each_token.load_state_dict(model.state_dict())
        examine(each_token.logits, "lalte, G = 1", seed, told.out)
        for rule in ("random eviction", "recency alone"):
            other = whole(score=other_scores(rule, seed)).eval()
            examine(other.logits, f"lalte, {rule}", seed, told.out)


if __name__ == "__main__":
    main()
