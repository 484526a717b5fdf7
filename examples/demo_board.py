"""The demo's live table: a table on a terminal, plain lines anywhere else."""

from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

ROW_SECONDS = 5.0
ROWS = 12
COLUMNS = ("seconds", "acknowledged", "absorbed", "tokens/s", "session in Redis", "daemon resident")


@dataclass(frozen=True)
class Sample:
    """What was seen at a moment (seconds, monotonic): tokens and bytes."""

    moment: float
    acked: int
    absorbed: int
    session_bytes: int
    resident_bytes: int

    def rate_since(self, earlier: "Sample") -> float:
        """Absorbed tokens a second."""
        elapsed = self.moment - earlier.moment
        return (self.absorbed - earlier.absorbed) / elapsed if elapsed > 0 else 0.0


class Board:
    """Shows samples: the newest at once on a terminal, and one row every five seconds."""

    def __init__(self, console: Console, start: Sample) -> None:
        self._console = console
        self._seen = [start]
        self._last_row = start
        self._rows: list[tuple[str, ...]] = []
        self._live = Live(console=console, auto_refresh=False)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        else:
            self._line(COLUMNS)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.stop()

    def show(self, sample: Sample) -> None:
        self._seen.append(sample)
        row = self._row(sample)
        is_due = sample.moment - self._last_row.moment >= ROW_SECONDS
        if is_due:
            self._keep(sample, row)
        if self._console.is_terminal:
            newest = [] if is_due else [row]
            self._live.update(_table([*self._rows, *newest][-ROWS:]), refresh=True)

    def say(self, sentence: str) -> None:
        """An event between two rows."""
        # A style given to print would color the live table, too.
        self._console.print(Text(sentence, style="bold red"))

    def restart(self, sample: Sample) -> None:
        """The rate is counted from here: the model has gone back to its checkpoint."""
        self._seen.append(sample)
        self._last_row = sample

    def close(self) -> list[Sample]:
        """Shows the last sample for good; gives all of them."""
        self._keep(self._seen[-1], self._row(self._seen[-1]))
        if self._console.is_terminal:
            self._live.update(_table(self._rows[-ROWS:]), refresh=True)
        return self._seen

    def _row(self, sample: Sample) -> tuple[str, ...]:
        return (
            f"{sample.moment - self._seen[0].moment:.0f}",
            f"{sample.acked:,}",
            f"{sample.absorbed:,}",
            f"{sample.rate_since(self._last_row):,.0f}",
            f"{sample.session_bytes:,}" if sample.session_bytes else "no checkpoint yet",
            f"{sample.resident_bytes / 2**20:,.0f} MiB",
        )

    def _keep(self, sample: Sample, row: tuple[str, ...]) -> None:
        self._last_row = sample
        self._rows.append(row)
        if not self._console.is_terminal:
            self._line(row)

    def _line(self, cells: Sequence[str]) -> None:
        line = "".join(f"{cell:>18}" for cell in cells)
        self._console.print(line, soft_wrap=True, highlight=False)


def _table(rows: Sequence[tuple[str, ...]]) -> Table:
    table = Table(*COLUMNS)
    for column in table.columns:
        column.justify = "right"
    for row in rows:
        table.add_row(*row)
    return table
