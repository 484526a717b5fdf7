"""`memoryd data`: text for training."""

from __future__ import annotations

import json
import lzma
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from memoryd.cli.errors import Refused
from memoryd.cli.output import late_bar

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from memoryd.cli.output import LateBar

app = typer.Typer(help="Make files that `memoryd train scratch` reads.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keeps `tokenize` a command of its own while it is the only one."""


@app.command()
def tokenize(
    sources: Annotated[
        list[Path], typer.Argument(help="Files: .txt is one document, .jsonl a line each; + .xz.")
    ],
    out: Annotated[Path, typer.Option(help="The file to write: NAME.tokens.")],
    model: Annotated[
        Path | None, typer.Option(help="Whose tokenizer; default: the default model's.")
    ] = None,
    field: Annotated[str, typer.Option(help="The text's field in a line of JSON.")] = "text",
    as_json: Annotated[bool, typer.Option("--json", help="Print the facts as JSON.")] = False,
) -> None:
    """Turn text into a memory-mapped file of token ids."""
    from lalte.checkpoints.cache import default_model_dir
    from lalte.checkpoints.errors import CheckpointError
    from lalte.text import TextError, Tokenizer, TurnFormat
    from lalte.train.errors import TrainError
    from lalte.train.tokens import write_token_file

    folder = model or default_model_dir()
    try:
        tokenizer = Tokenizer.load(folder)
        turns = TurnFormat.from_json((folder / "turn_format.json").read_text("utf-8"))
        with late_bar("reading", in_bytes=True) as bar:
            facts = write_token_file(
                out,
                _documents(sources, field, bar),
                tokenizer.encode_plain,
                vocab_size=tokenizer.vocab_size,
                end_id=min(turns.stop_ids),
            )
    except OSError as error:
        raise Refused(f"{error.filename}: {error.strerror}") from error
    except (CheckpointError, TextError, TrainError) as error:
        raise Refused(str(error)) from error
    if as_json:
        typer.echo(json.dumps(asdict(facts)))
    else:
        typer.echo(f"{out}: {facts.tokens:,} tokens of {facts.documents:,} documents")


def _documents(sources: Sequence[Path], field: str, bar: LateBar) -> Iterator[str]:
    """Each document's text. Raises Refused naming the file and line that does not fit."""
    total = sum(path.stat().st_size for path in sources)
    before = 0
    for path in sources:
        kind = path.with_suffix("").suffix if path.suffix == ".xz" else path.suffix
        if kind not in (".txt", ".jsonl"):
            raise Refused(f"{path}: is neither .txt nor .jsonl (with or without .xz)")
        # Positions are those of the file on disk, compressed or not: that is what takes time.
        with path.open("rb") as raw, lzma.open(raw) if path.suffix == ".xz" else raw as lines:
            if kind == ".txt":
                yield lines.read().decode("utf-8", errors="replace")
            else:
                for number, line in enumerate(lines, 1):
                    yield _field(path, number, line, field)
                    bar.update(before + raw.tell(), total)
        before += path.stat().st_size
        bar.update(before, total)


def _field(path: Path, number: int, line: bytes, field: str) -> str:
    try:
        text = json.loads(line)[field]
    except (ValueError, KeyError, TypeError) as error:
        raise Refused(
            f"{path}, line {number}: is no JSON object with a field {field!r} ({error!r})"
        ) from error
    if not isinstance(text, str):
        raise Refused(f"{path}, line {number}: {field!r} is no text")
    return text
