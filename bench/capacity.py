"""What a number of sessions needs: bytes in Redis and in memory, and cores.

Bytes follow from the model's configuration. The rate at which one daemon reads is for
bench/ingest.py to measure on the machine in question; here it is an argument.
"""

import argparse
from pathlib import Path

import torch

from lalte.checkpoints.cache import default_model_dir
from lalte.config import ModelConfig
from lalte.state import nbytes

MIB = 1 << 20
TOKEN_BYTES = 4
PEAK_CHECKPOINTS = 4
"""Checkpoints that may stand beside the ones they replace; the daemon keeps room for as many."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=None, help="folder; the default model's")
    parser.add_argument("--sessions", type=int, default=10_000, help="stored")
    parser.add_argument("--active", type=int, default=100, help="with a slot, over all daemons")
    parser.add_argument("--append-rate", type=float, default=5.0, help="tokens/s of an active one")
    parser.add_argument("--read-rate", type=float, required=True, help="tokens/s of one daemon")
    parser.add_argument("--checkpoint-tokens", type=int, default=4096)
    given = parser.parse_args()
    folder = given.model or default_model_dir()
    config = ModelConfig.from_json((folder / "config.json").read_text("utf-8"))
    state = nbytes(config, torch.bfloat16)
    journal = TOKEN_BYTES * given.checkpoint_tokens
    redis = given.sessions * (state + journal) + PEAK_CHECKPOINTS * state
    written = given.active * given.append_rate / given.checkpoint_tokens * state
    rows = [
        ("state of a session", f"{state / MIB:.1f} MiB", "the model's configuration"),
        ("journal of a session, at most", f"{journal / 1024:.0f} KiB", "4 bytes a token"),
        (f"Redis, {given.sessions} sessions", f"{redis / (1 << 30):.1f} GiB", "state and journal"),
        (f"slots, {given.active} sessions", f"{given.active * state / MIB:.0f} MiB", "state"),
        ("checkpoints written", f"{written / MIB:.2f} MiB/s", "state / checkpoint_tokens"),
        ("appended", f"{given.active * given.append_rate:.0f} tokens/s", "active x append rate"),
        ("daemons to read it", f"{given.active * given.append_rate / given.read_rate:.1f}", "rate"),
    ]
    print("| what | how much | from |\n|---|---|---|")
    for row in rows:
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
