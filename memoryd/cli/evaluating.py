"""`memoryd eval`: measure what a model remembers."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from memoryd.cli import output
from memoryd.cli.connection import ApiKey, AsJson, UseTls, connect
from memoryd.cli.errors import Refused

if TYPE_CHECKING:
    from memoryd.evaluation.cells import Evaluation, Wanted

PATIENCE_SECONDS = 60.0
"""How long a daemon may be away in the middle of an evaluation."""


def evaluate(
    task: Annotated[
        str,
        typer.Argument(
            help="single_1, single_2, single_3 (RULER's needles), facts, superseded, documents, "
            "instructions, mqar, completion or perplexity."
        ),
    ],
    length: Annotated[
        list[int] | None,
        typer.Option(
            help="Tokens of a stream; of dialogue after a fact; paragraphs of a document stream. "
            "May be repeated."
        ),
    ] = None,
    samples: Annotated[
        int, typer.Option(min=1, help="Questions (of perplexity: streams) of each length.")
    ] = 10,
    seed: Annotated[int, typer.Option(help="Of the samples.")] = 1,
    per_stream: Annotated[
        int, typer.Option(min=1, help="Needles, facts or keys that share a stream.")
    ] = 1,
    per_haystack: Annotated[
        int,
        typer.Option(
            min=1,
            help="Streams of needles that share a haystack: a session reads it once and is forked "
            "where each needle comes.",
        ),
    ] = 1,
    memory: Annotated[
        str,
        typer.Option(
            help="own, or a baseline on the same weights: full, window, random, attended, local; "
            "of perplexity also fresh, the own memory begun 4,096 tokens before each block."
        ),
    ] = "own",
    label: Annotated[str, typer.Option(help="What results call this memory.")] = "",
    state_limit: Annotated[
        int, typer.Option(min=0, help="Cut budgets until a state has at most so many bytes.")
    ] = 0,
    positions: Annotated[
        str,
        typer.Option(
            help="Where retained tokens are said to stand: absolute, or a span in tokens that they "
            "are packed to; default: the model's own."
        ),
    ] = "",
    one_prompt: Annotated[
        bool, typer.Option("--one-prompt", help="Without a daemon, in this process.")
    ] = False,
    model: Annotated[
        Path | None, typer.Option(help="A model folder; default: the default model's.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Folder with books, dialogues and paragraphs (xz-packed JSON lines)."),
    ] = None,
    recipe: Annotated[
        Path | None,
        typer.Option(help="Recipe that says which books were held out; default: the shipped one."),
    ] = None,
    rows: Annotated[
        Path | None, typer.Option(help="File of a completion task: JSON lines, text and value.")
    ] = None,
    results: Annotated[
        Path | None,
        typer.Option(help="JSON lines to append to; cells that are there are not measured again."),
    ] = None,
    threads: Annotated[int, typer.Option(min=0, help="Of the model; 0 is one a core.")] = 0,
    at_once: Annotated[int, typer.Option(min=1, help="Sessions and replies together.")] = 8,
    target: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT", help="A daemon with this model; default: one of its own."
        ),
    ] = None,
    api_key: ApiKey = None,
    tls: UseTls = False,
    as_json: AsJson = False,
) -> None:
    """Tell streams, ask about them, and count right answers.

    Streams go into sessions of a daemon and questions are queries; baselines and perplexity run in
    this process.
    """
    with refusals():
        from lalte.checkpoints.cache import default_model_dir
        from memoryd.evaluation.cells import Place, Wanted
        from memoryd.evaluation.log import ResultsLog

        place = Place(
            model or default_model_dir(),
            partial(connect, api_key=api_key, tls=tls, patience=PATIENCE_SECONDS),
            target,
            threads,
            at_once,
        )
        log = ResultsLog(results)
        with make_evaluation(place, data, recipe, rows) as evaluation:
            for tokens in length or [0]:
                wanted = Wanted(
                    task,
                    tokens,
                    samples,
                    seed,
                    memory,
                    one_prompt,
                    per_stream,
                    state_limit,
                    label,
                    per_haystack,
                    positions,
                )
                _print(measure(evaluation, wanted, log), as_json=as_json)


def make_evaluation(
    place: Any, data: Path | None, recipe: Path | None, rows: Path | None
) -> "Evaluation":
    """An evaluation over the texts in `data`, without the books that the recipe trained on."""
    from lalte.checkpoints.pull import ADAPTER
    from lalte.evaluation.tasks import Sources
    from lalte.retrofit.config import read_config
    from memoryd.evaluation.cells import Evaluation

    config = read_config(recipe or ADAPTER.parent / "recipe.yaml")
    return Evaluation(
        place,
        lambda loaded: Sources(loaded.tokenizer, data, tuple(config.held_out_books), rows),
    )


def measure(evaluation: "Evaluation", wanted: "Wanted", log: Any) -> dict[str, Any]:
    """A cell, from the log or measured now, with a progress bar."""
    known: dict[str, Any] | None = log.find(evaluation.key(wanted))
    if known is not None:
        return known
    what = f"{wanted.task} {wanted.length or ''} {wanted.label or wanted.memory}"
    with output.late_bar(what, in_bytes=False) as bar:
        cell = evaluation.run(
            wanted, lambda done, asked, tokens: bar.update(done, asked, f"{tokens:,} tokens read")
        )
    log.append(cell)
    return cell


def _print(cell: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(cell, ensure_ascii=False))
        return
    low, high = cell["ci95"]
    figures = (
        f"{cell['right']} of {cell['asked']} right, {cell['accuracy']:.3f} ({low:.3f}-{high:.3f})"
    )
    if "perplexity" in cell:
        figures += f", perplexity {cell['perplexity']:.2f}"
    typer.echo(
        f"{cell['task']} {cell['length'] or ''} {cell['memory']}: {figures}; "
        f"{cell['state_bytes']:,} bytes, {cell['seconds']:.0f} s"
    )


@contextmanager
def refusals() -> Iterator[None]:
    """What a person can act on leaves as Refused; bugs keep their traceback."""
    from lalte.checkpoints.errors import CheckpointError
    from lalte.config import ConfigError
    from lalte.evaluation.errors import EvaluationError
    from lalte.retrofit.errors import RetrofitError
    from lalte.text.errors import TextError
    from memoryd.evaluation.own_daemon import DaemonFailed

    known = (CheckpointError, ConfigError, EvaluationError, RetrofitError, TextError, DaemonFailed)
    try:
        yield
    except known as error:
        raise Refused(str(error)) from error
