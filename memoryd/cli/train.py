"""`memoryd train`: make a model remember, and see what it remembers."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from memoryd.cli.errors import Refused
from memoryd.cli.scratch import scratch

if TYPE_CHECKING:
    from collections.abc import Iterator

app = typer.Typer(help="Train a converted model to remember, or one anew.", no_args_is_help=True)
app.command()(scratch)

Model = Annotated[Path | None, typer.Option(help="A model folder; default: the default model's.")]
Data = Annotated[
    Path, typer.Option(help="Folder with books.jsonl.xz and dialogues.jsonl.xz (JSON lines).")
]


@app.command()
def retrofit(
    config: Annotated[Path, typer.Argument(help="The recipe, a YAML file.")],
    data: Data,
    run: Annotated[
        Path, typer.Option(help="Folder for shards and checkpoints (tens of MB a stream).")
    ],
    result: Annotated[Path, typer.Option(help="Folder for the adapter and its result.json.")],
    model: Model = None,
) -> None:
    """Train GDN layers and routers for a converted model; called again, it goes on."""
    with _refusals():
        from lalte.checkpoints.cache import default_model_dir
        from lalte.retrofit.config import read_config
        from lalte.retrofit.recipe import Places
        from lalte.retrofit.recipe import retrofit as train

        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
        base = model or default_model_dir()
        typer.echo(train(read_config(config), Places(base, data, run, result)))


@app.command()
def budgets(
    config: Annotated[Path, typer.Argument(help="The recipe, a YAML file.")],
    data: Data,
    model: Model = None,
    streams: Annotated[int, typer.Option(min=1, help="Streams to read.")] = 8,
    mean: Annotated[int, typer.Option(min=1, help="Slots for a KV head, on average.")] = 256,
    least: Annotated[int, typer.Option(min=0, help="Slots that every KV head has.")] = 16,
) -> None:
    """Propose a recipe's budgets: many slots where forgetting a fact costs answers."""
    with _refusals():
        from lalte.checkpoints.cache import default_model_dir
        from lalte.retrofit.config import read_config
        from lalte.retrofit.slots import propose_budgets

        slots, costs = propose_budgets(
            read_config(config),
            model or default_model_dir(),
            data,
            streams=streams,
            mean=mean,
            least=least,
        )
    typer.echo("budgets:")
    for layer, budget in slots.items():
        typer.echo(f"  {layer}: {budget}  # forgetting costs {costs[layer]:.3f} nats a token")


@app.command()
def merge(
    adapter: Annotated[Path, typer.Argument(help="An adapter file.")],
    dest: Annotated[Path, typer.Argument(help="The model folder to write; must not exist.")],
    model: Model = None,
) -> None:
    """Put an adapter's layers into a converted model."""
    with _refusals():
        from lalte.checkpoints.adapter import merge_adapter, read_adapter
        from lalte.checkpoints.cache import default_model_dir

        merge_adapter(model or default_model_dir(), read_adapter(adapter), dest)
    typer.echo(dest)


@contextmanager
def _refusals() -> Iterator[None]:
    """What a person can act on leaves as Refused; bugs keep their traceback."""
    from lalte.checkpoints.errors import CheckpointError
    from lalte.config import ConfigError
    from lalte.retrofit.errors import RetrofitError

    try:
        yield
    except (CheckpointError, ConfigError, RetrofitError) as error:
        raise Refused(str(error)) from error
