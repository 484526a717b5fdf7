"""What the default model is to reach, and what it reached, from measured cells."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

Cell = dict[str, Any]
Find = Callable[[str, str, int], Cell | None]
"""(task, memory, length) -> the cell."""

_LENGTHS = (1024, 2048, 4096, 8192, 32768, 131072)


@dataclass(frozen=True)
class Target:
    """One line of the table. verdict: "reached", "missed" or "not measured"."""

    what: str
    wanted: str
    reached: str
    verdict: str


def targets(find: Find) -> Iterator[Target]:
    """Every target, measured or not."""
    yield from _state(find)
    yield from _perplexity(find)
    for task in ("single_1", "single_2"):
        for length in _LENGTHS:
            yield _needle(find, task, length)
    for length in (1024, 2048, 4096):
        yield _share(find, "single_3", length, 0.8)
    for length in (2048, 4096, 7168):
        yield _share(find, "facts", length, 0.8)
    for length in (2048, 7168):
        yield _share(find, "superseded", length, 1.0)
    for length in (1, 10, 30):
        yield _share(find, "documents", length, 0.85)
    own = find("instructions", "own", 0)
    yield _line("instructions answered as the teacher does", ">= 0.80", _accuracy(own), 0.8)


def _state(find: Find) -> Iterator[Target]:
    own = find("perplexity", "own", 2048)
    size = own["state_bytes"] / 1e6 if own else None
    yield _line("state, MB", "<= 10", size, 10, most=True)


def _perplexity(find: Find) -> Iterator[Target]:
    own, full, local = (find("perplexity", memory, 2048) for memory in ("own", "full", "local"))
    ratio = own["perplexity"] / full["perplexity"] if own and full else None
    yield _line("perplexity at 2,048 to the teacher's", "<= 1.08", ratio, 1.08, most=True)
    ratio = own["perplexity"] / local["perplexity"] if own and local else None
    yield _line("perplexity at 2,048 to GDN layers' at window 64", "< 1", ratio, 0.99999, most=True)
    long, fresh = (_blocks(find("perplexity", memory, 131072)) for memory in ("own", "fresh"))
    worst = max(long[2:]) / long[1] if long else None
    yield _line("worst 8K block to 128K to [2K, 8K)", "<= 1.05", worst, 1.05, most=True)
    both = zip(long[2:], fresh[2:], strict=True) if long and fresh else ()
    worst = max((own / anew for own, anew in both), default=None)
    what = "worst 8K block to 128K to the same block read afresh"
    yield _line(what, "<= 1.05", worst, 1.05, most=True)


def _blocks(cell: Cell | None) -> list[float]:
    return [block["perplexity"] for block in cell["blocks"]] if cell else []


def _needle(find: Find, task: str, length: int) -> Target:
    own = find(task, "own", length)
    found = _accuracy(own)
    what = f"{task} at {length:,}"
    if length == 8192:
        teacher = find(task, "full", length)
        if teacher is not None:
            least = teacher["accuracy"] - 0.05
            return _line(what, f">= {least:.2f} (teacher - 0.05)", found, least)
        if found is None or found < 0.95:
            return Target(what, "teacher - 0.05", _number(found), "not measured")
        return _line(what, "teacher - 0.05, so at most 0.95", found, 0.95)
    least = 0.95 if length <= 4096 else 0.8
    return _line(what, f">= {least:.2f}", found, least)


def _share(find: Find, task: str, length: int, share: float) -> Target:
    own, teacher = find(task, "own", length), find(task, "full", length)
    found = _accuracy(own)
    what = f"{task} at {length:,}"
    if teacher is None:
        return Target(what, f"{share:.2f} x the teacher's", _number(found), "not measured")
    least = share * teacher["accuracy"]
    return _line(what, f">= {least:.2f} ({share:.2f} x the teacher's)", found, least)


def _line(
    what: str, wanted: str, found: float | None, bound: float, *, most: bool = False
) -> Target:
    if found is None:
        return Target(what, wanted, "-", "not measured")
    reached = found <= bound if most else found >= bound - 1e-9
    return Target(what, wanted, _number(found), "reached" if reached else "**missed**")


def _accuracy(cell: Cell | None) -> float | None:
    return None if cell is None else float(cell["accuracy"])


def _number(found: float | None) -> str:
    return "-" if found is None else f"{found:.3f}"
