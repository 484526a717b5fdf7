"""`memoryd session append`: files or standard input into a session."""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO, Literal

import typer

from memoryd.cli import output
from memoryd.cli.connection import DEFAULT_TARGET, ApiKey, AsJson, Target, UseTls, connect
from memoryd.cli.errors import Refused

if TYPE_CHECKING:
    from memoryd_client import Ack, AppendResult, Client

STANDARD_INPUT = Path("-")
POLL_SECONDS = 0.2
OUTAGE_SECONDS = 60.0
"""How long a daemon may be away in the middle of a stream."""


def append(
    name: Annotated[str, typer.Argument(help="Name of the session.")],
    files: Annotated[
        list[Path] | None, typer.Argument(help="Files of UTF-8 text; none or - is standard input.")
    ] = None,
    role: Annotated[
        Literal["document", "user", "assistant", "system", "raw"],
        typer.Option(help="Whose words these are; raw is not framed at all."),
    ] = "document",
    wait: Annotated[
        bool, typer.Option("--wait", help="Return when the model has read it, too.")
    ] = False,
    target: Target = DEFAULT_TARGET,
    api_key: ApiKey = None,
    tls: UseTls = False,
    as_json: AsJson = False,
) -> None:
    """Append text of any length, each file as one document. Returns when it is durable."""
    with connect(target, api_key, tls, patience=OUTAGE_SECONDS) as client:
        for path in files or [STANDARD_INPUT]:
            if path == STANDARD_INPUT:
                result = _stream(client, name, sys.stdin.buffer, role, "standard input", None)
            else:
                if not path.is_file():
                    raise Refused(f"{path} is no file: name a text file, or - for standard input")
                with path.open("rb") as file:
                    result = _stream(client, name, file, role, path.name, path.stat().st_size)
        if wait:
            _wait(client, name, result.offset.tokens)
    if as_json:
        output.print_json(result)
    else:
        typer.echo(f"{name} stands at {output.count(result.offset.tokens)} tokens")


def _stream(
    client: "Client", name: str, file: BinaryIO, role: str, what: str, total: int | None
) -> "AppendResult":
    from memoryd_client import Role

    with output.late_bar(what, in_bytes=True) as bar:

        def show(ack: "Ack") -> None:
            read, acked = (
                output.count(ack.absorbed_tokens),
                output.count(ack.offset.tokens),
            )
            bar.update(ack.acked_bytes, total, f"model has read {read} of {acked} tokens")

        return client.append_stream(name, file, role=Role(role), on_ack=show)


def _wait(client: "Client", name: str, tokens: int) -> None:
    # The model reads in whole chunks: what is left behind the last one is read by each query.
    whole = tokens - tokens % client.get_model().chunk
    with output.late_bar("reading", in_bytes=False) as bar:
        while (absorbed := client.get_session(name).absorbed_tokens) < whole:
            bar.update(absorbed, whole)
            time.sleep(POLL_SECONDS)
