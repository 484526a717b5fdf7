"""Trains the family at a size that one core can train, and asks what it remembers.

Every member and two ablations of LTE's router read the same sequences (`family_setting`), MQAR and
needles by turns. Then each answers fresh sequences of 1, 2, 4 and 8 times the trained length, as a
session answers them: block by block, through its state, with the online rule of eviction and hard
budgets. The trained laLTE is asked again with other rules for what it keeps.

Members come first, seed by seed. What is done is not done again, so the program may be stopped at
any time: `python bench/family.py --runs FOLDER`, then `python bench/family_table.py`.
"""

import argparse
import itertools
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from family_setting import (
    BUDGET,
    LENGTH,
    LENGTHS,
    PAIRS,
    TASKS,
    VOCABULARY,
    WINDOW,
    Contestant,
    Lessons,
    blind,
    contestants,
    parameters,
    run_config,
    start,
    without_future,
)

from lalte.init import init_weights
from lalte.layers.lte import GroupedConv, LTEAttention
from lalte.model import LaLTE
from lalte.state import StateSlots, nbytes
from lalte.train.ranks import Ranks
from lalte.train.tasks import IGNORED, RecallTask, TaskName, distances
from lalte.train.trainer import METRICS_FILE, Trainer

RESULTS = Path(__file__).parent / "results" / "family.jsonl"
EXAMINED = 32  # sequences of a cell of the trained length; longer ones are fewer
LEAST_EXAMINED = 8
BLIND = "lalte, no future"
VARIANTS = (
    "lalte, G = 1",
    "lalte, random eviction",
    "lalte, untrained router",
    "lalte, recency alone",
)


@dataclass
class Tally:
    """Right answers and questions."""

    right: int = 0
    asked: int = 0

    def add(self, right: torch.Tensor) -> None:
        self.right += int(right.sum())
        self.asked += right.numel()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, required=True, help="folder for checkpoints")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--only", nargs="+", help="names of contestants")
    parser.add_argument("--out", type=Path, default=RESULTS)
    told = parser.parse_args()
    torch.set_num_threads(1)
    everyone = [who for who in contestants() if told.only is None or who.name in told.only]
    members = [who for who in everyone if "," not in who.name]
    ablations = [who for who in everyone if "," in who.name]
    for group in (members, ablations):
        for seed in told.seeds:
            for who in group:
                compete(who, seed, told.runs, told.out)


def compete(who: Contestant, seed: int, runs: Path, out: Path) -> None:
    """Train a contestant, unless it is trained, and ask it what has not been asked."""
    examination = Examination(out, seed)
    if examination.over([who.name, *(VARIANTS if who.name == "lalte" else ())]):
        return
    run = runs / f"{who.name}-{seed}".replace(",", "").replace(" ", "-")
    trainer = trainer_of(who, seed, run)
    trainer.train()
    model = trainer.model
    if who.name == BLIND:
        blindfold(model)
    examination.hold(who.name, model, trained_kept(run))
    if who.name == "lalte":
        for name, other in zip(VARIANTS, variants(model, seed), strict=True):
            examination.hold(name, other, None)


def trainer_of(who: Contestant, seed: int, run: Path) -> Trainer:
    """The run in a folder as it stands; at its first step, with this experiment's start."""
    score = blind if who.name == BLIND else None
    trainer = Trainer(
        run_config(seed),
        who.config,
        run,
        run,
        Ranks(0, 1, torch.device("cpu")),
        score=score,
        batches=Lessons(seed),
    )
    if trainer.step == 0:
        start(trainer.model, seed)
    return trainer


def trained_kept(run: Path) -> list[list[float]] | None:
    """What each head kept of a sequence at the end of training: the controller's average."""
    last = json.loads((run / METRICS_FILE).read_text().splitlines()[-1])
    kept: list[list[float]] = last["kept"]
    return kept or None


def variants(model: LaLTE, seed: int) -> Iterator[LaLTE]:
    """The trained laLTE with other rules for what its past keeps, as VARIANTS says."""
    yield copied(model, eviction_grid="token")
    random = copied(model)
    for number, mixer in enumerate(lte_mixers(random)):
        mixer.score = Random(seed * 1000 + number, mixer)  # type: ignore[method-assign]
    yield random
    untrained, fresh = copied(model), LaLTE(model.config)
    init_weights(fresh, seed)
    for mixer, other in zip(lte_mixers(untrained), lte_mixers(fresh), strict=True):
        mixer.router.load_state_dict(other.router.state_dict())
    yield untrained
    recent = copied(model)
    with torch.no_grad():
        for mixer in lte_mixers(recent):
            mixer.router.conv_stack.proj.weight.zero_()
            mixer.router.conv_stack.proj.bias.fill_(-1)
    yield recent


def copied(model: LaLTE, **changes: Any) -> LaLTE:
    other = LaLTE(replace(model.config, **changes))
    other.load_state_dict(model.state_dict())
    return other


def lte_mixers(model: LaLTE) -> list[LTEAttention]:
    return [block.attn for block in model.blocks() if isinstance(block.attn, LTEAttention)]


@torch.no_grad()
def blindfold(model: LaLTE) -> None:
    """Make what `blind` trained a model of its own."""
    for mixer in lte_mixers(model):
        for conv in mixer.router.conv_stack.convs:
            if isinstance(conv, GroupedConv):
                conv.weight.copy_(without_future(conv.weight))


class Random:
    """Scores that are a function of a token's position alone, and above the threshold."""

    def __init__(self, seed: int, mixer: LTEAttention) -> None:
        generator = torch.Generator().manual_seed(seed)
        self._drawn = torch.rand(mixer.kv_heads, max(LENGTHS) + LENGTH, generator=generator) + 1
        self._reach = mixer.reach

    def __call__(
        self,
        key: torch.Tensor,
        value: torch.Tensor,  # noqa: ARG002 - what is random does not look
        first: int,
    ) -> torch.Tensor:
        """As LTEAttention.score."""
        position = torch.arange(first + self._reach, first + key.shape[1] - self._reach)
        scores = self._drawn[:, position.clamp(min=0)]
        return scores * (position >= 0)


class Examination:
    """Asks models of one seed, and writes a line for each cell that `out` does not have yet."""

    def __init__(self, out: Path, seed: int) -> None:
        self._out, self._seed = out, seed
        lines = out.read_text().splitlines() if out.exists() else []
        self._done = {
            (cell["model"], cell["seed"], cell["task"], cell["length"])
            for cell in map(json.loads, lines)
        }

    def over(self, names: Sequence[str]) -> bool:
        """Whether each of these has been asked everything."""
        wanted = itertools.product(names, [self._seed], TASKS, LENGTHS)
        return self._done.issuperset(wanted)

    def hold(self, name: str, model: LaLTE, trained: list[list[float]] | None) -> None:
        for task in TASKS:
            for length in LENGTHS:
                if (name, self._seed, task, length) not in self._done:
                    self._ask(name, model, task, length, trained)

    def _ask(
        self,
        name: str,
        model: LaLTE,
        task: TaskName,
        length: int,
        trained: list[list[float]] | None,
    ) -> None:
        began = time.process_time()
        cell: dict[str, Any] = {"model": name, "seed": self._seed, "task": task, "length": length}
        cell |= answers(model, examined_task(task, length), self._seed, examined_count(length))
        cell |= {
            "parameters": parameters(model.config),
            "state_bytes": nbytes(model.config, torch.float32, length),
            "trained_kept": trained,
            "seconds": round(time.process_time() - began, 1),
        }
        with self._out.open("a") as file:
            file.write(json.dumps(cell) + "\n")
        print(json.dumps(cell), flush=True)


def examined_count(length: int) -> int:
    return max(EXAMINED * LENGTH // length, LEAST_EXAMINED)


def examined_task(name: TaskName, length: int) -> RecallTask:
    """MQAR asks at half of its noise's places, as in training; needles ask once for each pair."""
    questions = (length - 2 * PAIRS) // 2 if name == "mqar" else PAIRS
    return RecallTask(name, length, PAIRS, VOCABULARY, questions)


@torch.no_grad()
def answers(model: LaLTE, task: RecallTask, seed: int, count: int) -> dict[str, Any]:
    """Ask sequences that no run was trained on; right answers, and how much was kept.

    near: questions whose answer is within LTE's window; far: those beyond any window. kept: most
    tokens that a head kept at a sequence's end, and the mean over heads and sequences; None without
    LTE.
    """
    every, near, far = Tally(), Tally(), Tally()
    kept: list[int] = []
    for index in range(count):
        tokens, targets = task.sample(torch.Generator().manual_seed(-1 - seed * 1_000_003 - index))
        found, held = stream(model, tokens)
        asked = targets != IGNORED
        right = found[asked] == targets[asked]
        every.add(right)
        distance = distances(tokens)[asked]
        near.add(right[distance <= WINDOW])
        far.add(right[distance > WINDOW + BUDGET])
        kept += held
    return {
        "right": every.right,
        "asked": every.asked,
        "near_right": near.right,
        "near_asked": near.asked,
        "far_right": far.right,
        "far_asked": far.asked,
        "kept_most": max(kept, default=None),
        "kept_mean": round(sum(kept) / len(kept), 2) if kept else None,
    }


def stream(model: LaLTE, tokens: torch.Tensor) -> tuple[torch.Tensor, list[int]]:
    """Read one sequence into an empty state: the likeliest next tokens, and what heads kept."""
    slots = StateSlots.allocate(model.config, 1)
    logits = model.forward(tokens[None], slots.view(0))
    return logits[0].argmax(dim=-1), [len(head.positions) for head in slots.retained(0)]


if __name__ == "__main__":
    main()
