"""`memoryd admin`: look at a daemon and end it."""

import typer

from memoryd.cli import output
from memoryd.cli.connection import DEFAULT_TARGET, ApiKey, AsJson, Target, UseTls, connect

app = typer.Typer(help="Look at a daemon and end it.", no_args_is_help=True)


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
            ("model", f"{model.model}, {output.size(model.state_bytes)} a session"),
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
            ("memory in Redis", output.size(figures.redis_used_bytes)),
        ]
    )


@app.command()
def drain(target: Target = DEFAULT_TARGET, api_key: ApiKey = None, tls: UseTls = False) -> None:
    """Checkpoint and release every session, then end the daemon."""
    with connect(target, api_key, tls) as client:
        released = client.drain()
    typer.echo(f"drained: {released} sessions released")
