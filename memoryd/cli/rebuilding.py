"""`memoryd session verify` and `migrate`: reading a session again."""

from functools import partial
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from memoryd.cli import output
from memoryd.cli.connection import DEFAULT_TARGET, ApiKey, AsJson, Target, UseTls, connect
from memoryd.cli.options import Name

if TYPE_CHECKING:
    from collections.abc import Callable

    from memoryd_client import Rebuilding

T = TypeVar("T")


def verify(
    name: Name,
    target: Target = DEFAULT_TARGET,
    api_key: ApiKey = None,
    tls: UseTls = False,
    as_json: AsJson = False,
) -> None:
    """Build a session's memory again and compare it with the one in use; status 1 if they differ.

    From the archive, or for a session without one from its newest checkpoint on.
    """
    with connect(target, api_key, tls) as client:
        found = _shown("rebuilding", partial(client.verify_session, name))
    if as_json:
        output.print_json(found)
    else:
        begin = "its archive" if found.from_archive else f"token {output.count(found.from_tokens)}"
        end = output.count(found.offset.tokens)
        if found.difference is None:
            typer.echo(f"{name} is equal at {end} tokens, rebuilt from {begin}")
        else:
            at = output.count(found.difference.tokens)
            typer.echo(
                f"{name} differs behind token {at} ({found.difference.kind}): "
                f"{found.difference.detail}"
            )
    if found.difference is not None:
        raise typer.Exit(1)


def migrate(
    name: Name,
    to: Annotated[
        str, typer.Option(help="Make a new session of this name. Default: replace the session.")
    ] = "",
    target: Target = DEFAULT_TARGET,
    api_key: ApiKey = None,
    tls: UseTls = False,
    as_json: AsJson = False,
) -> None:
    """Read an archived session again with the daemon's model and tokenizer."""
    with connect(target, api_key, tls) as client:
        session = _shown("migrating", partial(client.migrate_session, name, to=to))
    if as_json:
        output.print_json(session)
    else:
        typer.echo(
            f"{session.name} stands at {output.count(session.acked_tokens)} tokens "
            f"of {session.model}"
        )


def _shown(what: str, work: "Callable[..., T]") -> T:
    """Runs the work with a bar over the archive, or a count of tokens where there is none."""
    with output.late_bar(what, in_bytes=True) as bar:

        def show(seen: "Rebuilding") -> None:
            total = seen.target_archive_bytes or None
            note = f"{output.count(seen.read_tokens)} tokens"
            bar.update(seen.archive_bytes, total, note)

        return work(on_progress=show)
