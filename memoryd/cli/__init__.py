"""The command line `memoryd`: each command parses, builds and hands over.

This package imports typer, rich and nothing heavier; commands import what they need when they
run, so that `memoryd --help` answers at once. May import everything; nothing imports it.
"""

from pathlib import Path
from typing import Annotated

import typer

from memoryd.cli import admin, data, doctor, evaluating, model, serve, session, train
from memoryd.cli.connection import use_files
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
app.add_typer(train.app, name="train")
app.add_typer(data.app, name="data")
app.command("eval")(evaluating.evaluate)
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
    tls_roots: Annotated[
        Path | None,
        typer.Option(envvar="MEMORYD_TLS_ROOTS", help="PEM certificates to trust; implies --tls."),
    ] = None,
    client_cert: Annotated[
        Path | None,
        typer.Option(
            envvar="MEMORYD_CLIENT_CERT", help="PEM certificate to show the daemon; implies --tls."
        ),
    ] = None,
    client_key: Annotated[
        Path | None, typer.Option(envvar="MEMORYD_CLIENT_KEY", help="PEM key of --client-cert.")
    ] = None,
) -> None:
    use_files(tls_roots, client_key, client_cert)


def main() -> None:
    """Entry point. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    app(prog_name="memoryd")
