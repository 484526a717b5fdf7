"""Measures what the default model remembers: the cells of docs/results/plan.yaml, then the page.

Cells are appended to docs/results/memory.jsonl as they are done; those that are there are not
measured again. However a run ends, docs/results/memory.md is written from what there is. Two runs
may share the work where they measure different memories, one core each: `--memory own --threads 1`,
and `--memory full --memory window ..`.
"""

import argparse
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Literal

import yaml
from memory_page import LOG, POSITIONS, write_page
from pydantic import BaseModel, ConfigDict

from lalte.checkpoints.cache import default_model_dir
from memoryd.cli.connection import connect
from memoryd.cli.evaluating import PATIENCE_SECONDS, make_evaluation, measure
from memoryd.evaluation.cells import Evaluation, Place, Wanted
from memoryd.evaluation.log import ResultsLog

PLAN = LOG.parent / "plan.yaml"
DEFAULT = "default"


class Group(BaseModel):
    """Cells of one task; see the head of plan.yaml."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: str
    lengths: tuple[int, ...]
    samples: int
    per_stream: int = 1
    per_haystack: int = 1
    memories: tuple[str, ...]
    model: str = DEFAULT
    state_limit: Literal["same"] | None = None
    positions: str = ""

    @property
    def label(self) -> str:
        """What the page calls the memory, where it is not the default model's own or a baseline."""
        if self.positions:
            return f"{POSITIONS}{self.positions}"
        return "" if self.model == DEFAULT else self.model


class Plan(BaseModel):
    """The whole file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int
    groups: tuple[Group, ...]


def cells_of(group: Group, seed: int, state_bytes: int) -> Iterator[Wanted]:
    """state_bytes: of the default model's state."""
    for length in group.lengths:
        for memory in group.memories:
            yield Wanted(
                group.task,
                length,
                group.samples,
                seed,
                memory,
                per_stream=group.per_stream,
                state_limit=state_bytes if group.state_limit else 0,
                label=group.label,
                per_haystack=group.per_haystack,
                positions=group.positions,
            )


def run(
    plan: Plan,
    evaluations: dict[str, Evaluation],
    log: ResultsLog,
    only: list[str],
    memories: list[str],
) -> None:
    """only, memories: tasks and memories to measure; all of them where none is named."""
    state_bytes = evaluations[DEFAULT].state_bytes
    for group in plan.groups:
        if only and group.task not in only:
            continue
        if group.model not in evaluations:
            print(f"left out: {group.task} of {group.model}; give --model {group.model}=FOLDER")
            continue
        for wanted in cells_of(group, plan.seed, state_bytes):
            if memories and wanted.memory not in memories:
                continue
            cell = measure(evaluations[group.model], wanted, log)
            print(
                f"{wanted.task} {wanted.length} {cell['memory']}: {cell['right']}/{cell['asked']}, "
                f"{cell['seconds']:,.0f} s",
                flush=True,
            )


def parse_model(text: str) -> tuple[str, Path]:
    name, separator, folder = text.partition("=")
    if not (name and separator and folder):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=FOLDER")
    return name, Path(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder with the texts; without it only the page")
    parser.add_argument("--plan", type=Path, default=PLAN)
    parser.add_argument("--log", type=Path, default=LOG)
    parser.add_argument("--model", type=parse_model, action="append", default=[])
    parser.add_argument("--only", action="append", default=[], help="a task; may be repeated")
    parser.add_argument("--memory", action="append", default=[], help="one; may be repeated")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--at-once", type=int, default=8)
    arguments = parser.parse_args()
    folders = {DEFAULT: default_model_dir(), **dict(arguments.model)}
    plan = Plan.model_validate(yaml.safe_load(arguments.plan.read_text()))
    log = ResultsLog(arguments.log)
    client = partial(connect, api_key=None, tls=False, patience=PATIENCE_SECONDS)
    try:
        if arguments.data is not None:
            evaluations = {
                name: make_evaluation(
                    Place(folder, client, None, arguments.threads, arguments.at_once),
                    arguments.data,
                    None,
                    None,
                )
                for name, folder in folders.items()
            }
            with ExitStack() as stack:
                for evaluation in evaluations.values():
                    stack.enter_context(evaluation)
                run(plan, evaluations, log, arguments.only, arguments.memory)
    finally:
        print(f"written: {write_page(ResultsLog(arguments.log).cells, arguments.log)}")


if __name__ == "__main__":
    main()
