"""Writes docs/results/family.md and its picture from results/family.jsonl (see family.py)."""

import json
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import family
import matplotlib as mpl

mpl.use("svg")
mpl.rcParams["svg.hashsalt"] = "memoryd"

from matplotlib import pyplot as plt  # noqa: E402  the backend is chosen first

Cell = dict[str, Any]

CELLS = Path(__file__).parent / "results" / "family.jsonl"
PAGE = Path(__file__).parents[1] / "docs" / "results" / "family.md"
PICTURE = PAGE.with_suffix(".svg")
MEMBERS = ("gdn", "gdn-swa", "lalte", "lansa", "transformer++")
TITLES = {"mqar": "MQAR", "needle": "Needles"}


def main() -> None:
    cells = [json.loads(line) for line in CELLS.read_text().splitlines()]
    seeds = sorted({cell["seed"] for cell in cells})
    draw(cells)
    parts = [
        "# The family, trained and asked at a small size",
        "Written by `python bench/family_table.py` from bench/results/family.jsonl, which "
        "`python bench/family.py --runs FOLDER` makes (and goes on with, if it was stopped).",
        setting(seeds),
        f"![Share of right answers by length]({PICTURE.name})",
    ]
    for task, title in TITLES.items():
        parts += [f"## {title}", table([c for c in cells if c["task"] == task])]
    PAGE.write_text("\n\n".join(parts) + "\n")
    print(f"written: {PAGE}")


def setting(seeds: Sequence[int]) -> str:
    pairs = ", ".join(f"{count} in {TITLES[task]}" for task, count in family.PAIRS.items())
    return (
        f"Models of 1.1 million parameters, 4 layers, {family.VOCABULARY} symbols, trained on "
        f"sequences of {family.LENGTH} tokens, half MQAR and half needles, the same sequences for "
        f"each (pairs a sequence: {pairs}). Window and budget of LTE are 32, the window of SWA is "
        f"64. Each figure is the share of right answers, mean and range over seeds "
        f"{', '.join(map(str, seeds))}. Rows below the members: the router read each token alone "
        "or without what follows it (trained so); a trained laLTE whose past is evicted at each "
        "token (G = 1) and not at each block, at random, or wholly."
    )


def table(cells: Sequence[Cell]) -> str:
    others = [name for name in dict.fromkeys(c["model"] for c in cells) if name not in MEMBERS]
    head = ["", *(f"{length:,}" for length in family.LENGTHS)]
    rows: Iterable[list[str]] = (
        [name, *(figure(cells, name, length) for length in family.LENGTHS)]
        for name in (*MEMBERS, *others)
    )
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def figure(cells: Sequence[Cell], name: str, length: int) -> str:
    found = accuracies(cells, name, length)
    if not found:
        return "-"
    return f"{statistics.mean(found):.2f} ({min(found):.2f}-{max(found):.2f})"


def accuracies(cells: Sequence[Cell], name: str, length: int) -> list[float]:
    return [c["accuracy"] for c in cells if (c["model"], c["length"]) == (name, length)]


def draw(cells: Sequence[Cell]) -> None:
    shown, axes = plt.subplots(1, len(TITLES), figsize=(9, 3.2), sharey=True)
    for axis, (task, title) in zip(axes, TITLES.items(), strict=True):
        of_task = [cell for cell in cells if cell["task"] == task]
        for name in MEMBERS:
            lines = [(x, accuracies(of_task, name, x)) for x in family.LENGTHS]
            known = [(x, statistics.mean(found)) for x, found in lines if found]
            if known:
                axis.plot(*zip(*known, strict=True), marker="o", label=name)
        axis.set(title=title, xlabel="tokens", ylim=(-0.05, 1.05))
        axis.set_xscale("log", base=2)
    axes[0].set_ylabel("right answers")
    axes[0].legend(fontsize="small")
    shown.savefig(PICTURE, metadata={"Date": None}, bbox_inches="tight")
    plt.close(shown)


if __name__ == "__main__":
    main()
