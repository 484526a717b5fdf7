"""The command line `memoryd`: each command parses, builds and hands over.

This package imports typer, rich and nothing heavier; commands import what they need when they
run, so that `memoryd --help` answers at once. May import everything; nothing imports it.
"""

from typing import Annotated

import typer

from memoryd.cli import admin, doctor, model, serve, session
from memoryd.cli.errors import OneLineErrors

app = typer.Typer(
    cls=OneLineErrors,
    help="A memory service for agents: stream in text of any length, ask it at any time.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
)
app.command()(serve.serve)
app.add_typer(model.app, name="model")
app.add_typer(session.app, name="session")
app.add_typer(admin.app, name="admin")
app.command()(doctor.doctor)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"memoryd {version('memoryd')}")
        raise typer.Exit


@app.callback()
def _root(
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print it."),
    ] = False,
) -> None:
    pass


def main() -> None:
    """Entry point. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    app(prog_name="memoryd")
