"""How commands reach a daemon: the options that all of them share."""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from memoryd_client import Client

DEFAULT_TARGET = "127.0.0.1:7420"

Target = Annotated[
    str,
    typer.Option(envvar="MEMORYD_TARGET", metavar="HOST:PORT", help="The daemon's address."),
]
ApiKey = Annotated[
    str | None,
    typer.Option(
        envvar="MEMORYD_API_KEY", help="Key to authenticate with; better set as variable."
    ),
]
UseTls = Annotated[
    bool, typer.Option("--tls", envvar="MEMORYD_TLS", help="Encrypt, trusting the system's roots.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead.")]


def connect(target: str, api_key: str | None, tls: bool, *, patience: float = 2.0) -> "Client":
    """A client for one command. patience: seconds that a daemon may be away."""
    from memoryd_client import Client, Retry, Tls

    return Client(
        target,
        api_key=api_key or None,
        tls=Tls() if tls else None,
        retry=Retry(give_up_after=patience),
    )
