"""Arguments and options that several commands on sessions take."""

import re
from datetime import timedelta
from typing import Annotated

import typer

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}

Name = Annotated[str, typer.Argument(help="Name of the session.")]
Labels = Annotated[
    list[str] | None, typer.Option("--label", metavar="KEY=VALUE", help="May be repeated.")
]


def parse_ttl(text: str) -> timedelta:
    """30s, 15m, 12h or 7d."""
    match = re.fullmatch(r"(\d+)([smhd])", text)
    if match is None:
        raise typer.BadParameter(f"{text!r} is no duration: write 30s, 15m, 12h or 7d")
    return timedelta(seconds=int(match[1]) * _UNITS[match[2]])


def parse_label(text: str) -> tuple[str, str]:
    """key=value."""
    key, separator, value = text.partition("=")
    if not key or not separator:
        raise typer.BadParameter(f"{text!r} is no label: write key=value")
    return key, value


def parse_labels(given: list[str] | None) -> dict[str, str]:
    return dict(parse_label(text) for text in given or [])
