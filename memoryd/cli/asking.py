"""`memoryd session ask` and `chat`: questions, conversations, streamed answers."""

import sys
from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from memoryd.cli import output
from memoryd.cli.connection import DEFAULT_TARGET, ApiKey, AsJson, Target, UseTls, connect
from memoryd.cli.drawing import with_sampling

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from memoryd_client import Progress, Reply, Sampling

Name = Annotated[str, typer.Argument(help="Name of the session.")]


@with_sampling
def ask(
    name: Name,
    question: Annotated[str, typer.Argument(help="The question; - reads standard input.")],
    raw: Annotated[
        bool, typer.Option("--raw", help="No framing: go on right behind stream and question.")
    ] = False,
    reply_prefix: Annotated[str, typer.Option(help="What the reply starts with.")] = "",
    freshness: Annotated[
        Literal["acked", "absorbed"],
        typer.Option(help="Wait for all that was acknowledged, or take what is read by now."),
    ] = "acked",
    sampling: "Sampling | None" = None,
    target: Target = DEFAULT_TARGET,
    api_key: ApiKey = None,
    tls: UseTls = False,
    as_json: AsJson = False,
) -> None:
    """Ask the memory and leave it as it was."""
    from memoryd_client import Freshness

    if question == "-":
        question = sys.stdin.read()
    with connect(target, api_key, tls) as client:
        _print_reply(
            partial(
                client.query,
                name,
                question,
                raw=raw,
                reply_prefix=reply_prefix,
                freshness=Freshness(freshness),
                sampling=sampling,
            ),
            as_json=as_json,
        )


@with_sampling
def chat(
    name: Name,
    message: Annotated[
        str | None, typer.Option("--message", "-m", help="Say this only, and end.")
    ] = None,
    sampling: "Sampling | None" = None,
    target: Target = DEFAULT_TARGET,
    api_key: ApiKey = None,
    tls: UseTls = False,
    as_json: AsJson = False,
) -> None:
    """Talk; the session remembers both sides. Ctrl-D ends."""
    with connect(target, api_key, tls) as client:
        for said in [message] if message is not None else _lines():
            _print_reply(partial(client.chat, name, said, sampling=sampling), as_json=as_json)


def _lines() -> "Iterator[str]":
    while True:
        typer.echo("> ", nl=False, err=True)
        line = sys.stdin.readline()
        if not line:
            typer.echo(err=True)
            return
        if line.strip():
            yield line.rstrip("\n")


def _print_reply(start: "Callable[..., Reply]", *, as_json: bool) -> None:
    """Text as it arrives; with as_json one object at the end. Interrupted, it is cancelled."""

    def show(seen: "Progress") -> None:
        bar.update(seen.absorbed_tokens, seen.target_tokens)

    with start(on_progress=show) as reply:
        with output.late_bar("reading", in_bytes=False) as bar:
            deltas = iter(reply)
            first = next(deltas, "")
        if as_json:
            text = first + "".join(deltas)
            output.print_json({"text": text, "completion": reply.completion})
            return
        typer.echo(first, nl=False)
        for delta in deltas:
            typer.echo(delta, nl=False)
        typer.echo()
        if reply.completion.stale:
            typer.echo("(Redis did not answer: newer text may be missing)", err=True)
