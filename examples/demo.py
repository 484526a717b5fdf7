"""The whole way on one machine: tell a session three facts, stream a long text past it, kill the
daemon in the middle, start it again, and ask.

`make demo` runs this with the default model. It uses a daemon, a port and a data folder of its own
and leaves nothing behind.
"""

import argparse
import os
import pydoc_data.topics
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from demo_board import Board, Sample
from rich.console import Console
from rich.table import Table

from memoryd_client import (
    Ack,
    AppendResult,
    Client,
    Completion,
    MemorydError,
    ModelInfo,
    Retry,
    Role,
    Sampling,
    Turn,
)

SESSION = "demo"
DIALOGUE = (
    Turn(Role.USER, "My name is Ingrid Vale."),
    Turn(Role.ASSISTANT, "Nice to meet you, Ingrid Vale."),
    Turn(Role.USER, "I live in Trondheim."),
    Turn(Role.ASSISTANT, "I will remember that you live in Trondheim."),
    Turn(Role.USER, "My sister's dog is called Pepper."),
    Turn(Role.ASSISTANT, "Pepper is a lovely name for a dog."),
)
LAST_TOPIC = "pass"
# Question, how its answer may begin, and what a right answer contains.
QUESTIONS = (
    ("What is my name?", "Your name is", "Ingrid Vale"),
    ("Where do I live?", "You live in", "Trondheim"),
    ("What is my sister's dog called?", "Your sister's dog is called", "Pepper"),
    (
        "What is the last section of the document about?",
        "The last section of the document is about",
        LAST_TOPIC,
    ),
)
ANSWER_TOKENS = 40
CHARACTERS = 132_000
PIECE_BYTES = 4096
# At most so many messages unacknowledged and tokens unread: the stream is then still being sent
# when the daemon is killed.
WINDOW_MESSAGES = 4
BACKLOG_TOKENS = 2048
POLL_SECONDS = 0.5
PATIENCE = 180.0
"""Seconds that calls wait for a daemon that is starting."""


class Daemon:
    """`memoryd serve` in a process of its own, on a private Redis server in `folder`."""

    def __init__(self, folder: Path, model: Path | None) -> None:
        self.address = f"127.0.0.1:{_free_port()}"
        self._log = folder / "daemon.log"
        self._command = [sys.executable, "-m", "memoryd", "serve", "--listen", self.address]
        self._command += ["--data-dir", str(folder), "--log-format", "json"]
        self._command += ["--model", str(model)] if model else []
        # Somebody's own settings, say of another Redis, are not meant for this.
        self._environment = {
            name: value for name, value in os.environ.items() if not name.startswith("MEMORYD_")
        } | {"MEMORYD_BACKLOG_SOFT_TOKENS": str(BACKLOG_TOKENS)}

    def start(self) -> float:
        """Returns, when the daemon answers, the seconds that it took."""
        begin = time.monotonic()
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603  our own arguments
                self._command,
                env=self._environment,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the demo, which then ends the daemon
            )
        with Client(self.address, timeout=5, retry=Retry(give_up_after=0)) as client:
            while True:
                if self._process.poll() is not None:
                    sys.exit(f"The daemon did not start. It says:\n{self._log.read_text()[-2000:]}")
                try:
                    client.is_serving()
                except MemorydError:
                    if time.monotonic() - begin > PATIENCE:
                        raise
                    time.sleep(POLL_SECONDS)
                else:
                    return time.monotonic() - begin

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def stop(self) -> int:
        """Asks it to end; its exit status."""
        self._process.terminate()
        return self._process.wait()


@contextmanager
def running_daemon(model: Path | None, console: Console) -> Iterator[tuple[Daemon, Client]]:
    """A daemon that answers, and a client that waits for it when it is away."""
    with tempfile.TemporaryDirectory(prefix="memoryd-demo-") as folder:
        daemon = Daemon(Path(folder), model)
        try:
            took = daemon.start()
            console.print(f"It answers at {daemon.address} after {took:.0f} s.")
            with patient_client(daemon.address) as client:
                yield daemon, client
        finally:
            status = daemon.stop()
    console.print(f"The daemon drained and ended with status {status}.")


def patient_client(address: str) -> Client:
    return Client(address, timeout=PATIENCE, retry=Retry(give_up_after=PATIENCE))


class Stream(threading.Thread):
    """Sends the text from a thread of its own and goes on, by itself, after the daemon's death."""

    def __init__(self, address: str, text: str) -> None:
        super().__init__(daemon=True)
        self._address = address
        self._text = text
        self.ack: Ack | None = None
        self.result: AppendResult | None = None
        self.error: MemorydError | None = None

    def run(self) -> None:
        with patient_client(self._address) as client:
            try:
                self.result = client.append_stream(
                    SESSION,
                    self._text,
                    piece_bytes=PIECE_BYTES,
                    window=WINDOW_MESSAGES,
                    on_ack=self._note,
                )
            except MemorydError as error:
                self.error = error

    def _note(self, ack: Ack) -> None:
        self.ack = ack

    def acked_half(self) -> bool:
        return self.ack is not None and 2 * self.ack.acked_bytes >= len(self._text.encode())


def text_to_stream(characters: int) -> str:
    """Python's language reference in its own order, and a short section to ask about at the end."""
    topics: dict[str, str] = pydoc_data.topics.topics
    parts: list[str] = []
    for name in sorted(topics):
        if sum(map(len, parts)) >= characters:
            break
        parts.append(topics[name])
    return "\n\n".join([*parts, topics[LAST_TOPIC]])


def sample(client: Client) -> Sample:
    session, stats = client.get_session(SESSION), client.get_stats()
    return Sample(
        time.monotonic(),
        session.acked_tokens,
        session.absorbed_tokens,
        session.state_bytes,
        stats.resident_bytes,
    )


def stream_and_kill(daemon: Daemon, client: Client, console: Console, text: str) -> list[Sample]:
    """Streams the text, with one death and one restart of the daemon; gives what was seen."""
    chunk = client.get_model().chunk
    stream = Stream(daemon.address, text)
    killed = False
    with Board(console, sample(client)) as board:
        stream.start()
        while True:
            time.sleep(POLL_SECONDS)
            if stream.error is not None:
                raise stream.error
            if not killed and stream.acked_half() and stream.ack is not None:
                daemon.kill()
                killed = True
                acked = stream.ack.offset.tokens
                board.say(f"SIGKILL. {acked:,} tokens were acknowledged. Starting it again ...")
                took = daemon.start()
                session = client.get_session(SESSION)
                if session.acked_tokens < acked:
                    raise RuntimeError(f"only {session.acked_tokens:,} tokens are there")
                board.say(
                    f"It answers after {took:.0f} s; {session.acked_tokens:,} tokens are there. "
                    f"The model goes on from its checkpoint at {session.checkpoint_tokens:,} and "
                    "reads the journal from there; the stream goes on behind its last ack."
                )
                board.restart(sample(client))
            seen = sample(client)
            board.show(seen)
            # The model reads in whole chunks; each query reads what is left behind the last one.
            if stream.result is not None and seen.acked - seen.absorbed < chunk:
                return board.close()


def ask(client: Client, console: Console, question: str, begun: str, truth: str) -> Completion:
    """Prints the answer as it arrives, and whether it holds what it should."""
    reply = client.query(
        SESSION, question, reply_prefix=begun, sampling=Sampling(max_tokens=ANSWER_TOKENS)
    )
    console.print(f"> {question}", style="bold", markup=False, highlight=False)
    console.print(f"  {begun}", end="", style="dim", markup=False, highlight=False)
    parts = []
    for part in reply:
        parts.append(part)
        console.print(
            part.replace("\n", "\n  "), end="", soft_wrap=True, markup=False, highlight=False
        )
    is_right = truth.lower() in "".join(parts).lower()
    verdict = "[green]right[/]" if is_right else f"[red]wrong: {truth!r} is not in it[/]"
    console.print(f"\n  {verdict}\n")
    return reply.completion


def ask_everything(client: Client, console: Console) -> list[Completion]:
    completions = []
    console.rule("Asked, and free in its answer")
    for question, _, truth in QUESTIONS:
        completions.append(ask(client, console, question, "", truth))
    console.rule("Asked again, with the first words of the answer given")
    for question, begun, truth in QUESTIONS:
        completions.append(ask(client, console, question, begun, truth))
    return completions


def closing_figures(
    console: Console, model: ModelInfo, seen: list[Sample], completions: list[Completion]
) -> None:
    first, last = seen[0], seen[-1]
    checkpoints = [s.session_bytes for s in seen if s.session_bytes]
    resident = [s.resident_bytes for s in seen if s.absorbed >= last.absorbed // 4]
    latencies = sorted(c.usage.wait_seconds + c.usage.prefill_seconds for c in completions[1:])
    written = sum(c.usage.completion_tokens - 1 for c in completions)
    writing = sum(c.usage.decode_seconds for c in completions)
    table = Table(title="Figures of this run", show_header=False)
    for name, value in (
        ("tokens read", f"{last.absorbed:,}"),
        ("tokens/s, death and restart included", f"{last.rate_since(first):,.0f}"),
        ("session's memory, by configuration", f"{model.state_bytes:,} bytes"),
        ("checkpoint in Redis, least / most", _span(checkpoints)),
        ("daemon resident, least / most", _span(resident)),
        ("time to first token, median", f"{latencies[len(latencies) // 2] * 1000:.0f} ms"),
        ("tokens/s of answers", f"{written / writing:.1f}" if writing else "-"),
    ):
        table.add_row(name, value)
    console.print(table)
    for note in model.notes:
        console.print(note, highlight=False)


def _span(values: list[int]) -> str:
    return f"{min(values):,} / {max(values):,} bytes" if values else "none seen"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, help="model folder; the default model without it")
    parser.add_argument("--characters", type=int, default=CHARACTERS, help="of text to stream")
    arguments = parser.parse_args()
    console = Console(highlight=False)
    text = text_to_stream(arguments.characters)
    begin = time.monotonic()
    console.print("Starting `memoryd serve` with a private Redis server ...")
    with running_daemon(arguments.model, console) as (daemon, client):
        model = client.get_model()
        console.print(f"Model {model.model}: {model.parameters / 1e6:.0f} million parameters.")
        client.create_session(SESSION)
        console.rule("Told")
        client.append(SESSION, DIALOGUE)
        for turn in DIALOGUE:
            console.print(f"{turn.role}: {turn.content!s}", markup=False)
        console.rule("Streamed: Python's language reference")
        seen = stream_and_kill(daemon, client, console, text)
        completions = ask_everything(client, console)
        closing_figures(console, model, seen, completions)
    console.print(f"Done in {time.monotonic() - begin:.0f} s.")


if __name__ == "__main__":
    main()
