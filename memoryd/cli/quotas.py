"""`memoryd admin quota`: what tenants may have."""

import re
from typing import TYPE_CHECKING, Annotated

import typer

from memoryd.cli import output
from memoryd.cli.connection import DEFAULT_TARGET, ApiKey, AsJson, Target, UseTls, connect
from memoryd.cli.errors import Refused

if TYPE_CHECKING:
    from memoryd_client import Quota

app = typer.Typer(help="What tenants may have; needs the admin scope.", no_args_is_help=True)

Tenant = Annotated[str, typer.Argument(help="Tenant that is meant.")]

_OPTIONS = {
    "sessions": "sessions",
    "bytes": "stored_bytes",
    "tokens-per-minute": "tokens_per_minute",
    "queries": "concurrent_queries",
}
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def parse_bytes(text: str) -> int:
    """A number of bytes, or of K, M, G or T of them."""
    match = re.fullmatch(r"(\d+)([KMGT]?)", text)
    if match is None:
        raise typer.BadParameter(f"{text!r} is no size: write 500M, 10G, or a number of bytes")
    return int(match[1]) * _UNITS[match[2]]


@app.command()
def show(
    tenant: Tenant,
    target: Target = DEFAULT_TARGET,
    api_key: ApiKey = None,
    tls: UseTls = False,
    as_json: AsJson = False,
) -> None:
    """Show a tenant's limits and what it uses of them."""
    with connect(target, api_key, tls) as client:
        _print(client.get_quota(tenant), as_json)


@app.command("set")
def set_limits(
    tenant: Tenant,
    sessions: Annotated[int | None, typer.Option(min=0, help="Sessions; 0 is no limit.")] = None,
    stored_bytes: Annotated[
        int | None,
        typer.Option(
            "--bytes", parser=parse_bytes, metavar="500M|10G", help="Bytes in Redis; 0 is no limit."
        ),
    ] = None,
    tokens_per_minute: Annotated[
        int | None, typer.Option(min=0, help="Tokens read and written a minute; 0 is no limit.")
    ] = None,
    queries: Annotated[
        int | None, typer.Option(min=0, help="Replies at the same time; 0 is no limit.")
    ] = None,
    default: Annotated[
        list[str] | None,
        typer.Option(
            metavar="|".join(_OPTIONS), help="Back to the daemon's default; may be repeated."
        ),
    ] = None,
    target: Target = DEFAULT_TARGET,
    api_key: ApiKey = None,
    tls: UseTls = False,
    as_json: AsJson = False,
) -> None:
    """Change a tenant's limits; those that are not named stay as they are."""
    unknown = [name for name in default or () if name not in _OPTIONS]
    if unknown:
        raise Refused(f"{unknown[0]!r} is no limit: name one of {', '.join(_OPTIONS)}")
    with connect(target, api_key, tls) as client:
        quota = client.set_quota(
            tenant,
            sessions=sessions,
            stored_bytes=stored_bytes,
            tokens_per_minute=tokens_per_minute,
            concurrent_queries=queries,
            defaults=[_OPTIONS[name] for name in default or ()],
        )
    _print(quota, as_json)


def _print(quota: "Quota", as_json: bool) -> None:
    if as_json:
        output.print_json(quota)
        return
    rows = []
    for option, name in _OPTIONS.items():
        write = output.size if name == "stored_bytes" else output.count
        limit = getattr(quota.limits, name)
        row = [option, write(limit) if limit else "no limit", "own" if name in quota.own else "-"]
        if quota.used is not None:
            row.append(write(getattr(quota.used, name)))
        rows.append(row)
    columns = ["limit", "at most", "set"] + (["used"] if quota.used is not None else [])
    output.print_table(columns, rows)
