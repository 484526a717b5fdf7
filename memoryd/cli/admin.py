"""`memoryd admin`: look at a daemon, end it, hand out keys, and limit tenants."""

from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from memoryd.cli import output, quotas
from memoryd.cli.connection import DEFAULT_TARGET, ApiKey, AsJson, Target, UseTls, connect
from memoryd.cli.errors import Refused

if TYPE_CHECKING:
    from memoryd_client import ModelInfo, NewApiKey, Scope

app = typer.Typer(
    help="Look at a daemon, end it, hand out keys, and limit tenants.", no_args_is_help=True
)
keys = typer.Typer(help="API keys of all tenants; needs the admin scope.", no_args_is_help=True)
app.add_typer(keys, name="key")
app.add_typer(quotas.app, name="quota")


@app.command()
def stats(
    target: Target = DEFAULT_TARGET,
    api_key: ApiKey = None,
    tls: UseTls = False,
    as_json: AsJson = False,
) -> None:
    """Figures of the daemon, now."""
    with connect(target, api_key, tls) as client:
        figures, model = client.get_stats(), client.get_model()
    if as_json:
        output.print_json(figures)
        return
    output.print_facts(
        [
            ("daemon", f"{figures.daemon_id}, version {figures.version}"),
            ("started", output.since(figures.start_time)),
            ("draining", "yes" if figures.draining else "no"),
            ("model", f"{model.model}, {_cost(model)}"),
            ("storage", f"{figures.storage}, durability {figures.durability}"),
            ("sessions", output.count(figures.sessions)),
            ("slots", f"{figures.slots_used} of {figures.slots_total}"),
            ("lanes", f"{figures.lanes_used} of {figures.lanes_total}"),
            ("tokens appended", output.count(figures.tokens_appended)),
            ("tokens absorbed", output.count(figures.tokens_absorbed)),
            ("tokens generated", output.count(figures.tokens_generated)),
            ("backlog", f"{output.count(figures.backlog_tokens)} tokens"),
            ("checkpoints", output.count(figures.checkpoints)),
            ("resident memory", output.size(figures.resident_bytes)),
            (
                "memory in Redis",
                "a server did not answer"
                if "redis_used_bytes" in figures.missing
                else output.size(figures.redis_used_bytes),
            ),
        ]
    )


def _cost(model: "ModelInfo") -> str:
    cost = f"{output.size(model.state_bytes)} a session"
    return f"{cost} and {output.size(model.token_bytes)} a token" if model.token_bytes else cost


@app.command()
def drain(target: Target = DEFAULT_TARGET, api_key: ApiKey = None, tls: UseTls = False) -> None:
    """Checkpoint and release every session, then end the daemon."""
    with connect(target, api_key, tls) as client:
        released = client.drain()
    typer.echo(f"drained: {released} sessions released")


@app.command()
def discard(
    tenant: Annotated[str, typer.Argument(help="Tenant that the session belongs to.")],
    name: Annotated[str, typer.Argument(help="Name of the session.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    target: Target = DEFAULT_TARGET,
    api_key: ApiKey = None,
    tls: UseTls = False,
) -> None:
    """Delete a session whose record in Redis cannot be read."""
    if not yes:
        typer.confirm(f"Delete all that is left of {tenant}'s session {name}?", abort=True)
    with connect(target, api_key, tls) as client:
        deleted = client.discard_session(tenant, name)
    typer.echo(f"discarded: {deleted} keys")


@keys.command()
def create(
    tenant: Annotated[str, typer.Argument(help="Tenant that the key speaks for.")],
    scope: Annotated[
        list[str] | None,
        typer.Option(help="read, write or admin; may be repeated. Default: read and write."),
    ] = None,
    target: Target = DEFAULT_TARGET,
    api_key: ApiKey = None,
    tls: UseTls = False,
    as_json: AsJson = False,
) -> None:
    """Make a key. It is printed this once and stored nowhere."""
    from memoryd_client import Scope

    scopes = _scopes(scope) or [Scope.READ, Scope.WRITE]
    with connect(target, api_key, tls) as client:
        _print_new(client.create_api_key(tenant, scopes), as_json)


@keys.command()
def ls(
    tenant: Annotated[str, typer.Argument(help="Only keys of this tenant.")] = "",
    target: Target = DEFAULT_TARGET,
    api_key: ApiKey = None,
    tls: UseTls = False,
    as_json: AsJson = False,
) -> None:
    """List keys, without their secrets."""
    with connect(target, api_key, tls) as client:
        found = client.list_api_keys(tenant)
    if as_json:
        output.print_json(found)
        return
    output.print_table(
        ["id", "tenant", "scopes", "made", "works until"],
        [
            (
                key.id,
                key.tenant,
                ", ".join(key.scopes),
                output.since(key.create_time),
                key.expire_time.isoformat(timespec="seconds") if key.expire_time else "revoked",
            )
            for key in found
        ],
    )


@keys.command()
def revoke(
    key_id: Annotated[str, typer.Argument(help="The key's id, between md_ and the secret.")],
    target: Target = DEFAULT_TARGET,
    api_key: ApiKey = None,
    tls: UseTls = False,
) -> None:
    """Make a key worthless, on every daemon within ten seconds."""
    with connect(target, api_key, tls) as client:
        client.revoke_api_key(key_id)
    typer.echo(f"revoked: {key_id}")


@keys.command()
def rotate(
    key_id: Annotated[str, typer.Argument(help="The key's id, between md_ and the secret.")],
    grace: Annotated[float, typer.Option(help="Seconds for which the old key works on.")] = 0.0,
    target: Target = DEFAULT_TARGET,
    api_key: ApiKey = None,
    tls: UseTls = False,
    as_json: AsJson = False,
) -> None:
    """Make a key like another one, which works on for a while and then no more."""
    with connect(target, api_key, tls) as client:
        _print_new(client.rotate_api_key(key_id, grace=timedelta(seconds=grace)), as_json)


def _scopes(names: list[str] | None) -> "list[Scope]":
    from memoryd_client import Scope

    try:
        return [Scope(name) for name in names or ()]
    except ValueError as error:
        raise Refused(f"{error}: a scope is read, write or admin") from None


def _print_new(made: "NewApiKey", as_json: bool) -> None:
    if as_json:
        output.print_json(made)
        return
    output.print_facts(
        [
            ("id", made.key.id),
            ("tenant", made.key.tenant),
            ("scopes", ", ".join(made.key.scopes)),
            ("key", made.secret),
        ]
    )
