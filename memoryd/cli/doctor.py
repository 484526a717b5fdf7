"""`memoryd doctor`: is this machine ready to run the daemon, and if not, what is to be done."""

from pathlib import Path
from typing import Annotated

import typer

from memoryd.cli import output
from memoryd.cli.connection import AsJson
from memoryd.cli.errors import Refused


def doctor(
    config: Annotated[
        Path | None, typer.Option(help="The YAML file that `memoryd serve` would get.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check Python, torch, the processor, Redis, weights and the port. Exit code 1: not ready.

    Looks at what `memoryd serve` would use, by the same variables and file.
    """
    from memoryd.cli import checks

    if missing := checks.missing_packages():
        found = [
            checks.python(),
            checks.Check("packages", "fail", f"missing: {', '.join(missing)}", checks.INSTALL),
        ]
    else:
        from memoryd.config import Settings, SettingsError

        try:
            settings = Settings.load(config)
        except SettingsError as error:
            raise Refused(str(error)) from None
        found = list(checks.run_all(settings))
    if as_json:
        output.print_json(found)
    else:
        for check in found:
            color = {"ok": "green", "warn": "yellow", "fail": "red"}[check.status]
            typer.echo(f"{typer.style(f'{check.status:4}', fg=color)}  {check.name}: {check.found}")
            if check.advice:
                typer.echo(f"      {check.advice}")
    if any(check.status == "fail" for check in found):
        raise typer.Exit(1)
