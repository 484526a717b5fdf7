"""Whether anything grows: a million tokens into one session, then thousands of sessions.

    python bench/soak.py [--tokens 1000000] [--sessions 2000] [--session-tokens 2000]

One daemon with its private Redis serves a tiny random model (two layers: GDN and LTE, hidden 64,
chunk 64), because the real one would only take longer: what could leak is the same. Counted at
intervals: resident bytes of the daemon, bytes and keys of Redis, state bytes, slots, lanes,
sessions held, tasks of the event loop. Two queries follow each count, one of them left early.
"""

import argparse
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import redis
from results_file import save

from lalte.checkpoints.tiny import write_tiny_model
from lalte.presets import tiny_lalte
from memoryd.evaluation.own_daemon import own_daemon
from memoryd_client import Client, Role, Sampling

CHUNK = 64
MODEL = tiny_lalte(("gdn", "lte"), chunk=CHUNK, window=80, budget=16, position_span=128)
SETTINGS = {"slots": 64, "threads": 1, "durability": "everysec"}
ASKED = Sampling(max_tokens=8)
WORDS = ["the", "and", "that", "have", "with", "this", "from", "they", "will", "would", "there"]
CLIENTS = 8


@dataclass(frozen=True)
class Count:
    """What is held after `tokens` tokens in all and `sessions` sessions."""

    phase: str
    seconds: float
    tokens: int
    sessions: int
    resident_mb: float
    redis_mb: float
    redis_keys: int
    state_bytes: int
    slots_used: int
    lanes_used: int
    sessions_held: int
    tasks: int
    backlog: int


class Soak:
    """Counts of one daemon, and the work between them."""

    def __init__(self, client: Client, server: "redis.Redis") -> None:
        self.client = client
        self.server = server
        self.counts: list[Count] = []
        self._began = time.monotonic()

    def count(self, phase: str, sessions: int, probe: str) -> None:
        """Waits until all is read, asks, and counts."""
        self.ask(probe)
        stats = self.client.get_stats()
        while stats.backlog_tokens >= CHUNK * max(1, stats.sessions) or stats.lanes_used:
            time.sleep(0.1)
            stats = self.client.get_stats()
        session = self.client.get_session(probe)
        memory = self.server.info("memory")
        self.counts.append(
            Count(
                phase=phase,
                seconds=round(time.monotonic() - self._began, 1),
                tokens=stats.tokens_appended,
                sessions=sessions,
                resident_mb=round(stats.resident_bytes / 1e6, 1),
                redis_mb=round(memory["used_memory"] / 1e6, 2),
                redis_keys=self.server.dbsize(),
                state_bytes=session.state_bytes,
                slots_used=stats.slots_used,
                lanes_used=stats.lanes_used,
                sessions_held=stats.sessions,
                tasks=stats.tasks,
                backlog=stats.backlog_tokens,
            )
        )
        print(self.counts[-1], flush=True)

    def ask(self, session: str) -> None:
        self.client.query(session, "What was that?", sampling=ASKED).text()
        with self.client.query(session, "And then?", sampling=ASKED) as reply:
            next(iter(reply), None)

    def warm_up(self) -> None:
        """Questions of every length up to two chunks, for what is compiled once for each."""
        self.client.create_session("warm")
        for length in range(1, 2 * CHUNK):
            self.client.query("warm", "x" * length, raw=True, sampling=ASKED).text()
        self.client.delete_session("warm")

    def one_session(self, tokens: int, step: int) -> None:
        self.client.create_session("long")
        while (said := self.client.get_session("long").acked_tokens) < tokens:
            self.client.append_stream("long", text(min(step, tokens - said)), piece_bytes=8 << 10)
            self.count("one session", 1, "long")

    def many_sessions(self, sessions: int, tokens: int, step: int) -> None:
        document = text(tokens)

        def fill(name: str) -> None:
            self.client.create_session(name)
            self.client.append(name, document, role=Role.DOCUMENT)

        with ThreadPoolExecutor(CLIENTS) as pool:
            for first in range(0, sessions, step):
                names = [f"s{number}" for number in range(first, min(first + step, sessions))]
                list(pool.map(fill, names))
                self.count("many sessions", 1 + first + len(names), names[-1])

    def delete_all(self) -> None:
        for session in list(self.client.list_sessions()):
            self.client.delete_session(session.name)
        stats = self.client.get_stats()
        print(
            f"all deleted: {self.server.dbsize()} keys, {stats.slots_used} slots, "
            f"{stats.sessions} sessions held, {stats.tasks} tasks",
            flush=True,
        )


def text(tokens: int) -> str:
    """A text of about so many tokens: one word, one token."""
    return " ".join(WORDS[number * 7 % len(WORDS)] for number in range(tokens))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=1_000_000)
    parser.add_argument("--sessions", type=int, default=2000)
    parser.add_argument("--session-tokens", type=int, default=2000)
    parser.add_argument("--counts", type=int, default=10, help="counts in each phase")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mds") as folder:
        model = Path(folder) / "model"
        write_tiny_model(model, config=MODEL)
        with own_daemon(model, **SETTINGS) as address, Client(address) as client:
            socket = client.get_stats().storage.partition("unix://")[2].rstrip(")")
            with redis.Redis(unix_socket_path=socket) as server:
                soak = Soak(client, server)
                soak.warm_up()
                soak.one_session(given.tokens, given.tokens // given.counts)
                step = max(1, given.sessions // given.counts)
                soak.many_sessions(given.sessions, given.session_tokens, step)
                soak.delete_all()
    save("soak", [asdict(count) for count in soak.counts])


if __name__ == "__main__":
    main()
