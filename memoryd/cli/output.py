"""Tables, JSON and progress for commands."""

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

SHOW_PROGRESS_AFTER = 2.0
"""Seconds: what is done sooner needs no progress bar."""


def print_json(value: Any) -> None:
    """Dataclasses in any nesting as JSON: times in ISO 8601, durations in seconds."""
    typer.echo(json.dumps(value, default=_plain, indent=1, ensure_ascii=False))


def _plain(value: object) -> object:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    match value:
        case datetime():
            return value.isoformat()
        case timedelta():
            return value.total_seconds()
    raise TypeError(f"{value!r} has no JSON form")


def print_facts(facts: Sequence[tuple[str, object]]) -> None:
    """Names and values, one a line, never wrapped."""
    width = max(len(name) for name, _ in facts)
    for name, value in facts:
        typer.echo(f"{name:{width}}  {value}")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table whose numbers stand to the right."""
    table = Table(box=None, pad_edge=False)
    cells = [list(row) for row in rows]
    for index, column in enumerate(columns):
        numeric = bool(cells) and all(isinstance(row[index], int) for row in cells)
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in cells:
        table.add_row(
            *(count(cell) if isinstance(cell, int) else escape(str(cell)) for cell in row)
        )
    Console(highlight=False).print(table)


def count(number: int) -> str:
    """12345 -> 12,345."""
    return f"{number:,}"


def size(nbytes: int) -> str:
    """Bytes for a person: 9437184 -> 9.0 MiB."""
    amount = float(nbytes)
    for unit in ("B", "KiB", "MiB"):
        if amount < 1024:
            return f"{amount:.0f} B" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} GiB"


def since(moment: datetime | None) -> str:
    """How long ago, in the largest unit that fits."""
    if moment is None:
        return "-"
    seconds = (datetime.now(moment.tzinfo) - moment).total_seconds()
    for length, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= length:
            return f"{int(seconds // length)} {unit} ago"
    return f"{max(0, int(seconds))} s ago"


class LateBar:
    """A progress bar that appears once the work takes longer than two seconds, on a terminal."""

    def __init__(self, progress: "Progress", task: "TaskID") -> None:
        self._progress = progress
        self._task = task
        self._shown_from = time.monotonic() + SHOW_PROGRESS_AFTER

    def update(self, completed: int, total: int | None, note: str = "") -> None:
        """Set the bar; total None is not known."""
        self._progress.update(self._task, completed=completed, total=total, note=note)
        if time.monotonic() >= self._shown_from and self._progress.console.is_terminal:
            self._progress.start()


@contextmanager
def late_bar(what: str, *, in_bytes: bool) -> Iterator[LateBar]:
    """A bar over `what`, in bytes or in tokens, gone at the end."""
    from rich import progress

    amount = progress.DownloadColumn() if in_bytes else progress.MofNCompleteColumn()
    shown = progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        amount,
        progress.TextColumn("{task.fields[note]}"),
        progress.TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    task = shown.add_task(escape(what), total=None, note="")
    try:
        yield LateBar(shown, task)
    finally:
        # Stopping what never started would leave an empty line in a log.
        if shown.live.is_started:
            shown.stop()
