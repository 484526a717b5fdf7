"""Pictures of what was measured, as SVG; the same cells give the same bytes."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
mpl.rcParams["svg.hashsalt"] = "memoryd"

from matplotlib import pyplot as plt  # noqa: E402  the backend is chosen first
from matplotlib.figure import Figure  # noqa: E402

Cell = dict[str, Any]

_NEEDLES = ("single_1", "single_2", "single_3")
_DEPTH_BINS = 8


def plot_all(cells: Sequence[Cell], page: Path) -> Iterator[tuple[str, Path]]:
    """Draw what there are cells for; gives title and file of each."""
    pictures: tuple[tuple[str, str, Callable[[Sequence[Cell]], Figure | None]], ...] = (
        ("Needles found, by length of the stream", "length", by_length),
        ("Needles found, by depth in the stream", "depth", by_depth),
        ("Perplexity by place in the stream", "perplexity", by_position),
        ("Share of the needles' tokens that each head kept", "heads", by_head),
    )
    for title, name, draw in pictures:
        figure = draw(cells)
        if figure is None:
            continue
        figure.suptitle(title)
        file = page.with_name(f"{page.stem}-{name}.svg")
        figure.savefig(file, metadata={"Date": None}, bbox_inches="tight")
        plt.close(figure)
        yield title, file


def by_length(cells: Sequence[Cell]) -> Figure | None:
    """One panel for each needle task, one line for each memory."""
    tasks = [task for task in _NEEDLES if any(cell["task"] == task for cell in cells)]
    if not tasks:
        return None
    figure, axes = plt.subplots(
        1, len(tasks), figsize=(4 * len(tasks), 3), sharey=True, squeeze=False
    )
    for axis, task in zip(axes[0], tasks, strict=True):
        found = [cell for cell in cells if cell["task"] == task]
        for memory in dict.fromkeys(cell["memory"] for cell in found):
            line = sorted((c for c in found if c["memory"] == memory), key=lambda c: c["length"])
            share = [cell["accuracy"] for cell in line]
            error = [
                [max(c["accuracy"] - c["ci95"][0], 0) for c in line],
                [max(c["ci95"][1] - c["accuracy"], 0) for c in line],
            ]
            lengths = [cell["length"] for cell in line]
            axis.errorbar(lengths, share, yerr=error, marker="o", capsize=2, label=memory)
        axis.set(title=task, xlabel="tokens", xscale="log", ylim=(-0.05, 1.05))
    axes[0][0].set_ylabel("found")
    axes[0][0].legend(fontsize="small")
    return figure


def by_depth(cells: Sequence[Cell]) -> Figure | None:
    """The model's own memory: share found in each eighth of the stream, by length."""
    found = [c for c in cells if c["task"] in _NEEDLES and c["memory"] == "own"]
    if not found:
        return None
    found.sort(key=lambda cell: (cell["task"], cell["length"]))
    rows = []
    for cell in found:
        bins: list[list[bool]] = [[] for _ in range(_DEPTH_BINS)]
        for depth, right in cell["answers"]:
            bins[min(int(depth * _DEPTH_BINS / 100), _DEPTH_BINS - 1)].append(right)
        rows.append([sum(b) / len(b) if b else float("nan") for b in bins])
    figure, axis = plt.subplots(figsize=(6, 1 + 0.25 * len(rows)))
    image = axis.imshow(rows, vmin=0, vmax=1, aspect="auto", cmap="viridis")
    axis.set_yticks(range(len(rows)), [f"{c['task']} {c['length']:,}" for c in found])
    axis.set_xticks(range(_DEPTH_BINS), [f"{100 * n // _DEPTH_BINS}" for n in range(_DEPTH_BINS)])
    axis.set_xlabel("depth from, %")
    figure.colorbar(image, label="found")
    return figure


def by_position(cells: Sequence[Cell]) -> Figure | None:
    """One step line for each memory with more than one block."""
    found = [c for c in cells if c["task"] == "perplexity" and len(c["blocks"]) > 1]
    if not found:
        return None
    figure, axis = plt.subplots(figsize=(7, 3))
    for cell in found:
        edges = [cell["blocks"][0]["first"], *(block["last"] for block in cell["blocks"])]
        axis.stairs([b["perplexity"] for b in cell["blocks"]], edges, label=cell["memory"])
    axis.set(xlabel="position in the stream, tokens", ylabel="perplexity", yscale="log")
    axis.legend(fontsize="small")
    return figure


def by_head(cells: Sequence[Cell]) -> Figure | None:
    """Layers by KV heads, for the longest and the 8K stream of single_2."""
    found = {
        c["length"]: c
        for c in cells
        if c["task"] == "single_2" and c["memory"] == "own" and "kept_by" in c
    }
    chosen = sorted({min(found, key=lambda n: abs(n - 8192)), max(found)}) if found else []
    if not chosen:
        return None
    figure, axes = plt.subplots(1, len(chosen), figsize=(3.5 * len(chosen), 5), squeeze=False)
    for axis, length in zip(axes[0], chosen, strict=True):
        kept = found[length]["kept_by"]
        layers = sorted(kept, key=int)
        rows = [kept[layer] for layer in layers]
        image = axis.imshow(rows, vmin=0, vmax=1, aspect="auto", cmap="viridis")
        axis.set_yticks(range(len(layers)), layers, fontsize="x-small")
        axis.set(title=f"{length:,} tokens", xlabel="KV head", ylabel="layer")
        figure.colorbar(image, ax=axis)
    return figure
