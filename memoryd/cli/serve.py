"""`memoryd serve`: run the daemon."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from memoryd.cli.errors import Refused


def serve(
    config: Annotated[
        Path | None, typer.Option(help="YAML file with any of the daemon's settings.")
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="Model folder. Default: the one `memoryd model pull` made.")
    ] = None,
    listen: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Address to serve on. Default: 127.0.0.1:7420."),
    ] = None,
    advertise: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Address that other daemons reach this one at."),
    ] = None,
    redis_url: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Redis or Valkey. Default: a private server."),
    ] = None,
    redis_binary: Annotated[
        Path | None, typer.Option(help="Program of the private server.")
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder for the private server's data.")
    ] = None,
    durability: Annotated[
        Literal["auto", "everysec", "always", "replicated"] | None,
        typer.Option(help="What an acknowledgement survives. Default: auto."),
    ] = None,
    slots: Annotated[
        int | None, typer.Option(help="Sessions whose state is in memory. Default: 32.")
    ] = None,
    lanes: Annotated[
        int | None, typer.Option(help="Replies written at the same time. Default: 8.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="Threads of the model. Default: one for each core.")
    ] = None,
    dtype: Annotated[
        Literal["bfloat16", "float32"] | None,
        typer.Option(help="Number format of the model. Default: bfloat16."),
    ] = None,
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"] | None,
        typer.Option(help="Least important messages to log. Default: info."),
    ] = None,
    log_format: Annotated[
        Literal["auto", "console", "json"] | None,
        typer.Option(help="Default: console on a terminal, else json."),
    ] = None,
) -> None:
    """Run the daemon until SIGTERM, Ctrl-C or `memoryd admin drain`.

    Every setting may also be a variable MEMORYD_<NAME>; flags win over variables, variables over
    the file.
    """
    from memoryd.config import Settings, SettingsError

    try:
        settings = Settings.load(
            config,
            model=model,
            listen=listen,
            advertise=advertise,
            redis_url=redis_url,
            redis_binary=redis_binary,
            data_dir=data_dir,
            durability=durability,
            slots=slots,
            lanes=lanes,
            threads=threads,
            dtype=dtype,
            log_level=log_level,
            log_format=log_format,
        )
    except SettingsError as error:
        raise Refused(str(error)) from None
    from memoryd.app import serve as run

    raise typer.Exit(run(settings))
