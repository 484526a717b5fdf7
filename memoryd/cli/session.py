"""`memoryd session`: sessions as objects. See also `writing`, `asking` and `copies`."""

from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from memoryd.cli import asking, copies, output, rebuilding, writing
from memoryd.cli.connection import DEFAULT_TARGET, ApiKey, AsJson, Target, UseTls, connect
from memoryd.cli.options import Labels, Name, parse_labels, parse_ttl

if TYPE_CHECKING:
    from memoryd_client import Session

app = typer.Typer(help="Make, fill, ask and delete sessions.", no_args_is_help=True)


def create(
    name: Annotated[str, typer.Argument(help="Name; without one the daemon draws it.")] = "",
    ttl: Annotated[
        timedelta | None,
        typer.Option(parser=parse_ttl, metavar="30s|15m|12h|7d", help="Time to live unused."),
    ] = None,
    label: Labels = None,
    model: Annotated[str, typer.Option(help="Model to use. Default: the daemon's.")] = "",
    archive: Annotated[
        bool, typer.Option("--archive", help="Keep the text beside the memory.")
    ] = False,
    exist_ok: Annotated[
        bool, typer.Option("--exist-ok", help="A session that is there already will do.")
    ] = False,
    target: Target = DEFAULT_TARGET,
    api_key: ApiKey = None,
    tls: UseTls = False,
    as_json: AsJson = False,
) -> None:
    """Make an empty session and print its name."""
    with connect(target, api_key, tls) as client:
        session = client.create_session(
            name,
            model=model,
            ttl=ttl,
            labels=parse_labels(label),
            archive=archive,
            exist_ok=exist_ok,
        )
    if as_json:
        output.print_json(session)
    else:
        typer.echo(session.name)


def list_sessions(
    prefix: Annotated[str, typer.Argument(help="Only names that start with this.")] = "",
    label: Labels = None,
    target: Target = DEFAULT_TARGET,
    api_key: ApiKey = None,
    tls: UseTls = False,
    as_json: AsJson = False,
) -> None:
    """List sessions by name."""
    with connect(target, api_key, tls) as client:
        sessions = list(client.list_sessions(prefix=prefix, labels=parse_labels(label)))
    if as_json:
        output.print_json(sessions)
        return
    output.print_table(
        ("name", "acked", "absorbed", "state", "written", "labels"),
        (
            (
                session.name,
                session.acked_tokens,
                session.absorbed_tokens,
                output.size(session.state_bytes),
                output.since(session.update_time),
                _label_text(session),
            )
            for session in sessions
        ),
    )


def show(
    name: Name,
    target: Target = DEFAULT_TARGET,
    api_key: ApiKey = None,
    tls: UseTls = False,
    as_json: AsJson = False,
) -> None:
    """Show one session."""
    with connect(target, api_key, tls) as client:
        session = client.get_session(name)
    if as_json:
        output.print_json(session)
        return
    output.print_facts(
        [
            ("name", session.name),
            ("generation", session.generation),
            ("model", session.model),
            ("acknowledged", f"{output.count(session.acked_tokens)} tokens"),
            ("absorbed", f"{output.count(session.absorbed_tokens)} tokens"),
            ("tail", f"{session.tail_bytes} bytes not yet cut into tokens"),
            (
                "checkpoint",
                f"{output.size(session.state_bytes)} at "
                f"{output.count(session.checkpoint_tokens)} tokens"
                if session.state_bytes
                else "none yet",
            ),
            ("time to live", session.ttl or "until deleted"),
            ("labels", _label_text(session) or "-"),
            ("archive", output.size(session.archive_bytes) if session.archive else "none"),
            ("created", output.since(session.create_time)),
            ("written", output.since(session.update_time)),
            ("owner", session.owner or "-"),
        ]
    )


def _label_text(session: "Session") -> str:
    return " ".join(f"{key}={value}" for key, value in sorted(session.labels.items()))


def inspect(
    name: Name,
    layer: Annotated[
        list[int] | None, typer.Option(help="Only this layer; may be repeated.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Tokens to show for each head.")] = 8,
    target: Target = DEFAULT_TARGET,
    api_key: ApiKey = None,
    tls: UseTls = False,
    as_json: AsJson = False,
) -> None:
    """Show what each attention head has kept, the best scores first."""
    with connect(target, api_key, tls) as client:
        seen = client.inspect(name, layers=layer or (), limit=limit)
    if as_json:
        output.print_json(seen)
        return
    typer.echo(f"at {output.count(seen.offset.tokens)} tokens, state {seen.state_checksum}")
    output.print_table(
        ("layer", "head", "kept", "best tokens as position:text"),
        (
            (
                head.layer,
                head.head,
                f"{head.kept}/{head.budget}",
                " ".join(f"{token.position}:{token.text!r}" for token in head.tokens),
            )
            for head in seen.heads
        ),
    )


def remove(
    name: Name,
    generation: Annotated[str, typer.Option(help="Only this life of the session.")] = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    target: Target = DEFAULT_TARGET,
    api_key: ApiKey = None,
    tls: UseTls = False,
) -> None:
    """Delete a session with all it remembers. Nothing undoes it."""
    if not yes:
        typer.confirm(f"Delete {name} and all it remembers?", abort=True)
    with connect(target, api_key, tls) as client:
        client.delete_session(name, generation=generation)


app.command()(create)
app.command("ls")(list_sessions)
app.command()(show)
app.command()(writing.append)
app.command()(asking.ask)
app.command()(asking.chat)
app.command()(inspect)
app.command("rm")(remove)
app.command()(copies.update)
app.command()(copies.fork)
app.command()(copies.snapshot)
app.command("snapshots")(copies.list_snapshots)
app.command("rm-snapshot")(copies.remove_snapshot)
app.command()(copies.restore)
app.command()(rebuilding.verify)
app.command()(rebuilding.migrate)
app.command("export")(copies.export_file)
app.command("import")(copies.import_file)
