"""`memoryd session`: settings, fork, snapshots, restore, export and import."""

import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from memoryd.cli import output
from memoryd.cli.connection import DEFAULT_TARGET, ApiKey, AsJson, Target, UseTls, connect
from memoryd.cli.errors import Refused
from memoryd.cli.options import Labels, Name, parse_labels, parse_ttl

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memoryd_client import Session

STANDARD_STREAM = Path("-")
TRANSFER_PATIENCE = 10.0

SnapshotName = Annotated[str, typer.Argument(help="Name of the snapshot.")]


def update(
    name: Name,
    ttl: Annotated[
        timedelta | None,
        typer.Option(parser=parse_ttl, metavar="30s|15m|12h|7d", help="New time to live unused."),
    ] = None,
    no_ttl: Annotated[bool, typer.Option("--no-ttl", help="Let it live until deleted.")] = False,
    label: Labels = None,
    remove_label: Annotated[
        list[str] | None, typer.Option("--remove-label", metavar="KEY", help="May be repeated.")
    ] = None,
    target: Target = DEFAULT_TARGET,
    api_key: ApiKey = None,
    tls: UseTls = False,
    as_json: AsJson = False,
) -> None:
    """Change a session's time to live and labels."""
    if ttl is not None and no_ttl:
        raise Refused("--ttl and --no-ttl exclude each other: give one")
    labels = {**parse_labels(label), **dict.fromkeys(remove_label or [], "")}
    with connect(target, api_key, tls) as client:
        session = client.update_session(name, ttl=timedelta() if no_ttl else ttl, labels=labels)
    _print(session, as_json)


def fork(
    name: Name,
    new_name: Annotated[str, typer.Argument(help="Name of the copy.")],
    target: Target = DEFAULT_TARGET,
    api_key: ApiKey = None,
    tls: UseTls = False,
    as_json: AsJson = False,
) -> None:
    """Make a second session that starts with all that the first one holds."""
    with connect(target, api_key, tls) as client:
        session = client.fork_session(name, new_name)
    _print(session, as_json)


def snapshot(
    name: Name,
    snapshot_name: SnapshotName,
    target: Target = DEFAULT_TARGET,
    api_key: ApiKey = None,
    tls: UseTls = False,
    as_json: AsJson = False,
) -> None:
    """Pin the session's memory of now under a name."""
    with connect(target, api_key, tls) as client:
        taken = client.snapshot_session(name, snapshot_name)
    if as_json:
        output.print_json(taken)
    else:
        typer.echo(f"{name} is pinned at {output.count(taken.offset.tokens)} tokens")


def list_snapshots(
    name: Name,
    target: Target = DEFAULT_TARGET,
    api_key: ApiKey = None,
    tls: UseTls = False,
    as_json: AsJson = False,
) -> None:
    """List a session's snapshots, oldest first."""
    with connect(target, api_key, tls) as client:
        found = client.list_snapshots(name)
    if as_json:
        output.print_json(found)
        return
    output.print_table(
        ("snapshot", "tokens", "keeps", "taken"),
        (
            (one.name, one.offset.tokens, output.size(one.nbytes), output.since(one.create_time))
            for one in found
        ),
    )


def remove_snapshot(
    name: Name,
    snapshot_name: SnapshotName,
    target: Target = DEFAULT_TARGET,
    api_key: ApiKey = None,
    tls: UseTls = False,
) -> None:
    """Delete a snapshot. The session stays as it is."""
    with connect(target, api_key, tls) as client:
        client.delete_snapshot(name, snapshot_name)


def restore(
    name: Name,
    snapshot_name: SnapshotName,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    target: Target = DEFAULT_TARGET,
    api_key: ApiKey = None,
    tls: UseTls = False,
    as_json: AsJson = False,
) -> None:
    """Go back to a snapshot. What was appended since is gone."""
    if not yes:
        typer.confirm(f"Drop what {name} was told since {snapshot_name}?", abort=True)
    with connect(target, api_key, tls) as client:
        session = client.restore_session(name, snapshot_name)
    _print(session, as_json)


def export_file(
    name: Name,
    file: Annotated[Path, typer.Argument(help="File to write; - is standard output.")],
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    target: Target = DEFAULT_TARGET,
    api_key: ApiKey = None,
    tls: UseTls = False,
) -> None:
    """Write a session into one portable file."""
    with connect(target, api_key, tls, patience=TRANSFER_PATIENCE) as client:
        pieces = client.export_session(name)
        if file == STANDARD_STREAM:
            for piece in pieces:
                sys.stdout.buffer.write(piece)
            return
        if file.exists() and not force:
            raise Refused(f"{file} exists: choose another name, or replace it with --force")
        _write_whole(file, pieces)
    typer.echo(f"{file}: {output.size(file.stat().st_size)}")


def _write_whole(file: Path, pieces: "Iterator[bytes]") -> None:
    """Write beside the file first, so that what breaks off never looks like an export."""
    partial = file.with_name(file.name + ".partial")
    try:
        with partial.open("wb") as written:
            for piece in pieces:
                written.write(piece)
        partial.replace(file)
    except OSError as error:
        raise Refused(
            f"{file} cannot be written ({error.strerror}): choose another place"
        ) from None
    finally:
        partial.unlink(missing_ok=True)


def import_file(
    name: Annotated[str, typer.Argument(help="Name of the session to make.")],
    file: Annotated[Path, typer.Argument(help="Exported file; - is standard input.")],
    target: Target = DEFAULT_TARGET,
    api_key: ApiKey = None,
    tls: UseTls = False,
    as_json: AsJson = False,
) -> None:
    """Make a session from an exported file."""
    if file != STANDARD_STREAM and not file.is_file():
        raise Refused(f"{file} is no file: name an exported session, or - for standard input")
    with connect(target, api_key, tls, patience=TRANSFER_PATIENCE) as client:
        source = sys.stdin.buffer if file == STANDARD_STREAM else file
        session = client.import_session(name, source)
    _print(session, as_json)


def _print(session: "Session", as_json: bool) -> None:
    if as_json:
        output.print_json(session)
    else:
        typer.echo(f"{session.name} stands at {output.count(session.acked_tokens)} tokens")
