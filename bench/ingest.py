"""How fast the daemon reads, answers and writes as its stream grows, beside transformers.

Both have the same weights and the same number of threads, one after the other on an idle machine.
The daemon is measured from outside, through its client, journal included. transformers is a
library in this process with a key-value cache that is held between reading and asking; it stops at
the length that the model was trained to.
"""

import argparse
import pydoc_data.topics
import time
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

from llama_peer import LlamaPeer, PeerFigures
from results_file import save

from lalte.checkpoints.cache import default_model_dir
from memoryd.evaluation.own_daemon import own_daemon
from memoryd_client import Client, Sampling

LENGTHS = (512, 2048, 8064, 32_768)
QUESTION = "\n\nIn short, all of this means that"
REPLY_TOKENS = 48
QUERIES = 5
POLL_SECONDS = 0.02


@dataclass(frozen=True)
class DaemonFigures:
    """Rates in tokens a second, times in seconds, sizes in bytes.

    absorb_rate: over the piece of the stream between the length before and this one.
    """

    absorb_rate: float
    first_token_seconds: float
    decode_rate: float
    state_bytes: int
    resident_bytes: int


def measure_daemon(
    client: Client, lengths: list[int], text: str
) -> list[tuple[int, DaemonFigures]]:
    """One session grows from length to length; at each it is asked."""
    session = client.create_session().name
    model = client.get_model()
    figures = []
    for before, length in pairwise([0, *lengths]):
        start = client.get_session(session).absorbed_tokens
        begin = time.perf_counter()
        client.append_stream(session, text[_cut(text, before) : _cut(text, length)])
        acked = client.get_session(session).acked_tokens
        while acked - (absorbed := client.get_session(session).absorbed_tokens) >= model.chunk:
            time.sleep(POLL_SECONDS)
        elapsed = time.perf_counter() - begin
        first, rate = _ask(client, session)
        figures.append(
            (
                absorbed,
                DaemonFigures(
                    absorb_rate=(absorbed - start) / elapsed,
                    first_token_seconds=first,
                    decode_rate=rate,
                    state_bytes=model.state_bytes,
                    resident_bytes=client.get_stats().resident_bytes,
                ),
            )
        )
        print(absorbed, figures[-1][1], flush=True)
    client.delete_session(session)
    return figures


def _cut(text: str, tokens: int) -> int:
    """About where `tokens` tokens end: this text has some four characters each."""
    return min(len(text), 4 * tokens)


def _ask(client: Client, session: str) -> tuple[float, float]:
    """Median seconds from the call to the first text, median tokens a second after it."""
    firsts, rates = [], []
    for _ in range(QUERIES):
        begin = time.perf_counter()
        reply = client.query(
            session, QUESTION, raw=True, sampling=Sampling(max_tokens=REPLY_TOKENS)
        )
        parts = iter(reply)
        next(parts, "")
        firsts.append(time.perf_counter() - begin)
        for _ in parts:
            pass
        usage = reply.completion.usage
        if usage.completion_tokens > 1:
            rates.append((usage.completion_tokens - 1) / usage.decode_seconds)
    return sorted(firsts)[QUERIES // 2], sorted(rates)[len(rates) // 2] if rates else 0.0


def measure_peer(peer: LlamaPeer, lengths: list[int], text: str) -> list[tuple[int, PeerFigures]]:
    tokens = peer.encode(text)
    question = peer.encode(QUESTION)
    figures = []
    for length in lengths:
        if length + len(question) + REPLY_TOKENS <= peer.max_position:
            found = peer.measure(tokens[:length], question, REPLY_TOKENS)
            figures.append((length, found))
            print(length, found, flush=True)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, help="model folder; the default model without it")
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS)
    arguments = parser.parse_args()
    lengths = sorted(arguments.lengths)
    topics: dict[str, str] = pydoc_data.topics.topics
    text = "\n\n".join(topics[name] for name in sorted(topics))
    with own_daemon(arguments.model) as address, Client(address, timeout=600) as client:
        daemon = measure_daemon(client, lengths, text)
        numerics = client.get_model().numerics
    peer = measure_peer(LlamaPeer(arguments.model or default_model_dir()), lengths, text)
    save(
        "ingest",
        {
            "numerics": numerics,
            "memoryd": [{"tokens": n, **asdict(found)} for n, found in daemon],
            "transformers": [{"tokens": n, **asdict(found)} for n, found in peer],
        },
    )


if __name__ == "__main__":
    main()
