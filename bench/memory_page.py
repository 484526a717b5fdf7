"""Writes docs/results/memory.md and its pictures from the cells that were measured."""

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memory_plots import plot_all
from memory_targets import targets
from speed_table import table

from lalte.evaluation.variants import BASELINES

LOG = Path(__file__).parents[1] / "docs" / "results" / "memory.jsonl"

Cell = dict[str, Any]

NAMES = {
    "own": "laLTE, through sessions",
    "fresh": "laLTE, begun 4,096 tokens before each block",
    "full": "full attention (the teacher)",
    "window": "sinks + window",
    "random": "sinks + window + random tokens",
    "attended": "sinks + window + most attended (H2O)",
    "local": "GDN layers at window 64, without GDN",
    "no_future": "routers without future context",
    "lte_everywhere": "LTE in every layer, without GDN",
}
VARIANTS = ("fresh", *(name for name in BASELINES if name != "full"))
POSITIONS = "positions_"
"""How memories are called whose retained tokens are said to stand elsewhere."""
NEEDLES = ("single_1", "single_2", "single_3")


@dataclass(frozen=True)
class Cells:
    """The newest cells of the newest default model, of the teacher and of other models."""

    cells: Sequence[Cell]

    @classmethod
    def newest(cls, log: Iterable[Cell]) -> "Cells":
        found = list(log)
        models = [cell["model"] for cell in found if cell["memory"] == "own"]
        newest: dict[tuple[object, ...], Cell] = {}
        for cell in found:
            ours = cell["memory"] in ("own", *VARIANTS) or cell["positions"]
            if not ours or cell["model"] == models[-1]:
                newest[cell["task"], cell["memory"], cell["length"]] = cell
        return cls(list(newest.values()))

    def at(self, *, own_positions: bool) -> "Cells":
        """Those whose retained tokens stand where the model has them, or the others."""
        return Cells([cell for cell in self.cells if (cell["positions"] == "") == own_positions])

    def of(self, task: str) -> list[Cell]:
        return [cell for cell in self.cells if cell["task"] == task]

    def find(self, task: str, memory: str, length: int) -> Cell | None:
        for cell in self.of(task):
            if (cell["memory"], cell["length"]) == (memory, length):
                return cell
        return None

    def memories(self, task: str) -> list[str]:
        """In the order of NAMES."""
        there = {cell["memory"] for cell in self.of(task)}
        return [*(name for name in NAMES if name in there), *sorted(there - set(NAMES))]

    def lengths(self, task: str) -> list[int]:
        return sorted({cell["length"] for cell in self.of(task)})


def accuracy_text(cell: Cell | None) -> str:
    if cell is None:
        return "-"
    low, high = cell["ci95"]
    return f"{cell['right']}/{cell['asked']} ({low:.2f}-{high:.2f})"


def bytes_text(cells: Sequence[Cell]) -> str:
    """Of a state; of the longest stream's where it grows."""
    sizes = [cell["state_bytes"] for cell in cells]
    return f"{min(sizes) / 1e6:.1f}" if len(set(sizes)) == 1 else f"to {max(sizes) / 1e6:.1f}"


def accuracy_table(cells: Cells, task: str, unit: str) -> str:
    lengths = cells.lengths(task)
    rows: list[list[str]] = []
    for memory in cells.memories(task):
        found = [cells.find(task, memory, length) for length in lengths]
        there = [cell for cell in found if cell is not None]
        rows.append([NAMES.get(memory, memory), bytes_text(there), *map(accuracy_text, found)])
    return table(["", "MB", *(f"{length:,} {unit}" for length in lengths)], rows)


def outdated_table(cells: Cells) -> str:
    rows = [
        [
            NAMES.get(memory, memory),
            f"{length:,}",
            f"{cell['right']}/{cell['asked']}",
            f"{cell['outdated']}/{cell['asked']}",
        ]
        for memory in cells.memories("superseded")
        for length in cells.lengths("superseded")
        if (cell := cells.find("superseded", memory, length)) is not None
    ]
    return table(["", "tokens", "newest value", "old value"], rows)


def perplexity_table(cells: Cells) -> str:
    teacher = {cell["length"]: cell for cell in cells.of("perplexity") if cell["memory"] == "full"}
    rows = []
    for memory in cells.memories("perplexity"):
        for length in cells.lengths("perplexity"):
            cell = cells.find("perplexity", memory, length)
            if cell is not None:
                beside = teacher.get(length)
                ratio = f"{cell['perplexity'] / beside['perplexity']:.3f}" if beside else "-"
                rows.append(
                    [
                        NAMES.get(memory, memory),
                        bytes_text([cell]),
                        f"{length:,} x {cell['samples']}",
                        f"{cell['perplexity']:.2f}",
                        ratio,
                        f"{cell['accuracy']:.3f}",
                    ]
                )
    return table(["", "MB", "tokens", "perplexity", "to the teacher's", "next token right"], rows)


def blocks_table(cells: Cells) -> str:
    """Perplexity by position, of the longest stream of each memory."""
    longest = {
        cell["memory"]: cell
        for cell in sorted(cells.of("perplexity"), key=lambda cell: int(cell["length"]))
        if len(cell["blocks"]) > 1
    }
    borders: list[dict[str, float]] = max(
        (cell["blocks"] for cell in longest.values()), key=len, default=[]
    )
    rows = []
    for number, block in enumerate(borders):
        row = [f"{block['first']:,} - {block['last']:,}"]
        for cell in longest.values():
            there = number < len(cell["blocks"])
            row.append(f"{cell['blocks'][number]['perplexity']:.2f}" if there else "-")
        rows.append(row)
    return table(["tokens", *(NAMES.get(name, name) for name in longest)], rows) if rows else ""


def positions_table(own: Cells, moved: Cells) -> str:
    """Perplexity by place in the stream, and needles, by where retained tokens are put."""
    tasks = sorted({(cell["task"], cell["length"]) for cell in moved.cells})
    needles = [(task, length) for task, length in tasks if task != "perplexity"]
    length = max(length for task, length in tasks if task == "perplexity")
    rows, borders = [], []
    for memory, cells in [("own", own), *((name, moved) for name in moved.memories("perplexity"))]:
        cell = cells.find("perplexity", memory, length)
        if cell is None:
            continue
        borders = [f"{block['first']:,} - {block['last']:,}" for block in cell["blocks"]]
        found = [cells.find(task, memory, tokens) for task, tokens in needles]
        rows.append(
            [
                "its own" if memory == "own" else memory.removeprefix(POSITIONS),
                *(f"{block['perplexity']:.2f}" for block in cell["blocks"]),
                *map(accuracy_text, found),
            ]
        )
    heads = [f"{task} at {tokens:,}" for task, tokens in needles]
    return table(["", *borders, *heads], rows)


def command(cell: Cell) -> str:
    """How this cell is measured by hand; baselines and perplexity need no --target."""
    words = ["memoryd eval", cell["task"]]
    if cell["length"]:
        words.append(f"--length {cell['length']}")
    words.append(f"--samples {cell['samples']} --seed {cell['seed']} --data DATA")
    if cell["per_stream"] > 1:
        words.append(f"--per-stream {cell['per_stream']}")
    if cell["per_haystack"] > 1:
        words.append(f"--per-haystack {cell['per_haystack']}")
    if cell["positions"]:
        words.append(f"--positions {cell['positions']} --label {cell['memory']}")
    elif cell["memory"] in ("full", *VARIANTS):
        words.append(f"--memory {cell['memory']}")
    elif cell["memory"] != "own":
        words.append(f"--model FOLDER --label {cell['memory']}")
    if cell["state_limit"]:
        words.append(f"--state-limit {cell['state_limit']}")
    return " ".join(words)


NEEDLES_TEXT = """
RULER's niah_single_1, 2 and 3; the haystack of 2 and 3 is two books that nothing was trained on,
which repeat themselves beyond some 250,000 tokens. The context is appended to a session as raw
text, the question and RULER's reply prefix come as a Query, whose greedy reply of at most 128
tokens must contain the value. Right of asked, in brackets Wilson's interval at 95 %.

One needle a stream, but for those of a million tokens, which share one. That is harder: of ten that
share 2,048 tokens, each asked for by itself, full attention finds 3 and laLTE 1, for a model of
this size takes one number for another (`--per-stream 10`). Streams of one haystack
(`--per-haystack`) are sessions of their own: one that has read what comes before is forked where
their needles stand.
"""
FACTS_TEXT = """
A user mentions facts early in a dialogue of the Schema-Guided Dialogue set; after so many tokens of
other dialogues each is asked for in a turn of its own, and the reply's first words, up to the
value, are given. Facts, wordings and dialogues are of the half that nothing was trained on. Full
attention can hardly do this either, so where it finds nothing a target says little.
"""
SUPERSEDED_TEXT = "Told with one value and later with another: the later one is right."
DOCUMENTS_TEXT = """
SQuAD paragraphs appended as documents, in one stream; questions about any of them, each a Query.
The reply, of at most 48 tokens, must contain an answer.
"""
PERPLEXITY_TEXT = """
Held-out books, read from an empty memory on, in the process: a session shows no probabilities. The
states are the same.
"""
POSITIONS_TEXT = """
The same weights with retained tokens packed to within another span of tokens (the model's own is
1,024, the least that its window and budgets allow), or at their true positions. Perplexity by place
in a stream, as above; needles, where there are any, as above but in the process.
"""
INSTRUCTIONS_TEXT = """
50 ordinary instructions, shorter than the window: replies whose first 32 greedy tokens are the
teacher's.
"""
HEAD_TEXT = """
Written by `make results DATA=FOLDER` from {log}, where each cell is one line; plan.yaml lists the
cells. Model `{model}`, routers {routers}, bf16. Own memory: {state_bytes:,} bytes at any length of
a stream. Full attention's memory is the keys and values of the whole prompt. The other rows have at
most the same bytes, and like full attention they run in the process. {sources}; memoryd {memoryd},
torch {torch}.
"""


def paragraph(text: str) -> str:
    parts = (" ".join(part.split()) for part in text.strip().split("\n\n"))
    return "\n\n".join(textwrap.fill(part, 118, break_long_words=False) for part in parts)


def sections(every: Cells) -> Iterator[str]:
    cells, moved = every.at(own_positions=True), every.at(own_positions=False)
    yield "## Targets"
    yield table(
        ["what", "wanted", "reached", ""],
        [[t.what, t.wanted, t.reached, t.verdict] for t in targets(cells.find)],
    )
    needles = [task for task in NEEDLES if cells.of(task)]
    if needles:
        yield "## Needles"
        yield paragraph(NEEDLES_TEXT)
    for task in needles:
        yield f"### {task}"
        yield accuracy_table(cells, task, "tokens")
    if cells.of("facts"):
        yield "## Facts told in conversation"
        yield paragraph(FACTS_TEXT)
        yield accuracy_table(cells, "facts", "tokens")
    if cells.of("superseded"):
        yield "### Facts that were superseded"
        yield SUPERSEDED_TEXT
        yield outdated_table(cells)
    if cells.of("documents"):
        yield "## Documents"
        yield paragraph(DOCUMENTS_TEXT)
        yield accuracy_table(cells, "documents", "paragraphs")
    if cells.of("perplexity"):
        yield "## Perplexity"
        yield paragraph(PERPLEXITY_TEXT)
        yield perplexity_table(cells)
        yield blocks_table(cells)
    if moved.of("perplexity"):
        yield "## Where retained tokens stand"
        yield paragraph(POSITIONS_TEXT)
        yield positions_table(cells, moved)
    if cells.of("instructions"):
        yield "## Unharmed"
        yield paragraph(INSTRUCTIONS_TEXT)
        yield accuracy_table(cells, "instructions", "")


def write_page(log: Sequence[Cell], path: Path) -> Path:
    """Write the page and the pictures beside the log; gives the page's path."""
    page = path.with_suffix(".md")
    if not log:
        return page
    cells = Cells.newest(log)
    newest = ([cell for cell in cells.cells if cell["memory"] == "own"] or cells.cells)[-1]
    pictures = [
        f"![{title}]({file.name})"
        for title, file in plot_all(cells.at(own_positions=True).cells, page)
    ]
    sources = sorted({f"{cell['date']}, {cell['machine']}" for cell in cells.cells})
    head = HEAD_TEXT.format(
        log=path.name,
        sources="; ".join(sources),
        **{name: newest[name] for name in ("model", "routers", "state_bytes")},
        **newest["versions"],
    )
    commands = sorted({command(cell) for cell in cells.cells})
    parts = [
        "# What the default model remembers",
        paragraph(head),
        *sections(cells),
        *(["## Pictures", *pictures] if pictures else []),
        "## Commands",
        "\n".join(f"    {line}" for line in commands),
    ]
    page.write_text("\n\n".join(part for part in parts if part) + "\n", encoding="utf-8")
    return page
