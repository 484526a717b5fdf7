"""Errors for a person: one line on stderr with what to do, and exit code 1."""

from typing import Any

import typer
from typer.core import TyperGroup


class OneLineErrors(TyperGroup):
    """A group whose commands' expected failures are one line; a bug keeps its traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except Exception as error:
            sentence = _sentence(error)
            if sentence is None:
                raise
            typer.echo(f"error: {sentence}", err=True)
            raise typer.Exit(1) from error


def _sentence(error: Exception) -> str | None:
    # Imported after the failure, because only then does it no longer matter how long it takes.
    from memoryd.errors import MemorydError as DaemonError
    from memoryd_client import MemorydError as ClientError

    match error:
        case ModuleNotFoundError() if error.name and not error.name.startswith("memoryd"):
            return (
                f"this command needs the package {error.name}, which is not installed: "
                "pip install 'memoryd[daemon]'"
            )
        case ClientError() if error.advice and error.advice not in error.message:
            return f"{_one_line(error).rstrip('.')}. {error.advice}"
        case ClientError() | DaemonError() | OSError() | Refused():
            return _one_line(error)
    return None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


class Refused(Exception):
    """What the person typed cannot be done; the text says why and what to do."""
