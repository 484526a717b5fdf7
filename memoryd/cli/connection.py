"""How commands reach a daemon: the options that all of them share."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from memoryd.cli.errors import Refused

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
    bool,
    typer.Option("--tls", envvar="MEMORYD_TLS", help="Encrypt, trusting the system's roots."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead.")]


def connect(target: str, api_key: str | None, tls: bool, *, patience: float = 2.0) -> "Client":
    """A client for one command. patience: seconds that a daemon may be away."""
    from memoryd_client import Client, Retry, Tls

    roots, key, cert = map(_content, _files)
    return Client(
        target,
        api_key=api_key or None,
        tls=Tls(roots, key, cert) if tls or roots or cert else None,
        retry=Retry(give_up_after=patience),
    )


# The options of `memoryd` itself: roots, key, certificate. Typer hands an outer command's options
# to an inner one through a context that each of them would have to ask for and pass on.
_files: tuple[Path | None, Path | None, Path | None] = (None, None, None)


def use_files(roots: Path | None, key: Path | None, cert: Path | None) -> None:
    """What `connect` shows and trusts from now on. Raises Refused."""
    global _files
    if (key is None) != (cert is None):
        raise Refused("--client-cert and --client-key belong together: give both, or neither")
    _files = (roots, key, cert)


def _content(path: Path | None) -> bytes | None:
    return None if path is None else path.read_bytes()
