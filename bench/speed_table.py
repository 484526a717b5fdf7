"""Writes docs/results/speed.md from the results of startup.py and ingest.py."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from results_file import RESULTS

PAGE = Path(__file__).parents[1] / "docs" / "results" / "speed.md"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def source(run: dict[str, Any], name: str) -> str:
    packages = ", ".join(f"{package} {version}" for package, version in run["packages"].items())
    return (
        f"`{run['command']}` on {run['date']}, {run['machine']}; {packages}. "
        f"Output: bench/results/{name}.json."
    )


def speed_rows(figures: dict[str, Any]) -> Iterable[list[str]]:
    for found in figures["memoryd"]:
        yield [
            "memoryd",
            f"{found['tokens']:,}",
            f"{found['absorb_rate']:,.0f}",
            f"{found['first_token_seconds'] * 1000:,.0f}",
            f"{found['decode_rate']:.1f}",
            f"{found['state_bytes'] / 1e6:.1f}",
        ]
    for found in figures["transformers"]:
        yield [
            "transformers",
            f"{found['tokens']:,}",
            f"{found['prefill_rate']:,.0f}",
            f"{found['first_token_seconds'] * 1000:,.0f}",
            f"{found['decode_rate']:.1f}",
            f"{found['cache_bytes'] / 1e6:.1f}",
        ]


def main() -> None:
    startup, ingest = (
        json.loads((RESULTS / f"{name}.json").read_text()) for name in ("startup", "ingest")
    )
    columns = ["", "tokens", "read tokens/s", "first token ms", "write tokens/s", "memory MB"]
    programs = [
        [found["program"], f"{found['median_seconds']:.3f}", f"{found['least_seconds']:.3f}"]
        for found in startup["figures"]
    ]
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(
        f"""# Speed

Written by `make bench`.

## Reading, answering, writing

The same weights in bfloat16 on the same machine, one after the other. memoryd is measured through
its client: durable appends, the journal and the checkpoints are in it. transformers is a library
call with full attention, batch 1, and a key-value cache that is held between reading and asking; it
has no row beyond the length that the model was trained to. "Read" is, for memoryd, over the piece
of the stream since the row before. "First token" is the time from a question to the first token of
its answer.

{table(columns, speed_rows(ingest["figures"]))}

Numerics: {ingest["figures"]["numerics"]}. {source(ingest, "ingest")}

## Starting

Seconds of a new interpreter, files in the cache. The client and `memoryd --help` import no torch.

{table(["program", "median", "least"], programs)}

{source(startup, "startup")}
"""
    )
    print(f"written: {PAGE}")


if __name__ == "__main__":
    main()
