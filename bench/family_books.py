"""Trains laLTE on the bytes of books for some minutes, and asks what its memory is worth there.

The same weights read the same held-out text, as a session does, with each of the rules for what is
kept that `family` has: among them the past changing at each block (G = C, what is served) and at
each token (G = 1, the paper). The last book of DATA is held out:
`python bench/family_books.py --data books.jsonl.xz --runs FOLDER`. Called again, training goes on.
"""

import argparse
import json
import lzma
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from family import VARIANTS, variants
from family_setting import BATCH, LENGTH, parameters, run_config, scaled, start
from results_file import save
from torch.nn import functional

from lalte.model import LaLTE
from lalte.state import StateSlots
from lalte.train.ranks import Ranks
from lalte.train.trainer import METRICS_FILE, Trainer

BYTES = 256
STEPS = 450
RATE = 2e-3
# The price of keeping is felt from the first steps on, and moves as slowly as heads follow it.
PRICE = {"floor": 1e-2, "raise_factor": 1.05, "lower_factor": 1.1}
SEED = 1
STREAMS = 16
STREAM = 8 * LENGTH


class Books:
    """Rows of bytes from anywhere in a text: a function of (seed, index) alone."""

    def __init__(self, text: bytes) -> None:
        self._bytes = torch.frombuffer(bytearray(text), dtype=torch.uint8)

    def batch(self, first: int, rows: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        drawn = torch.stack([self._row(first + row) for row in rows])
        return drawn[:, :-1], drawn[:, 1:]

    def _row(self, index: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(SEED * 1_000_000_007 + index)
        room = len(self._bytes) - LENGTH
        at = int(torch.randint(room, (), generator=generator))
        return self._bytes[at : at + LENGTH + 1].long()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="jsonl.xz with a field text")
    parser.add_argument("--runs", type=Path, required=True, help="folder for the checkpoint")
    told = parser.parse_args()
    torch.set_num_threads(1)
    with lzma.open(told.data, "rt", encoding="utf-8") as lines:
        books = [json.loads(line) for line in lines]
    text = "\n".join(book["text"] for book in books[:-1]).encode()
    config = replace(scaled("lalte"), vocab_size=BYTES)
    run = told.runs / "books"
    usual = run_config(SEED)
    rate = usual.optimiser.model_copy(update={"learning_rate": RATE})
    price = usual.penalty.model_copy(update=PRICE)
    trainer = Trainer(
        usual.model_copy(
            update={"steps": STEPS, "optimiser": rate, "penalty": price, "checkpoint_steps": 100}
        ),
        config,
        run,
        run,
        Ranks(0, 1, torch.device("cpu")),
        batches=Books(text),
    )
    if trainer.step == 0:
        start(trainer.model, SEED)
    trainer.train()
    last = json.loads((run / METRICS_FILE).read_text().splitlines()[-1])
    model, held_out = trainer.model, books[-1]["text"].encode()
    rules = {"lalte": model, **dict(zip(VARIANTS, variants(model, SEED), strict=True))}
    save(
        "family_books",
        {
            "parameters": parameters(config),
            "steps": STEPS,
            "bytes_trained": STEPS * BATCH * LENGTH,
            "held_out": books[-1]["title"],
            "streams": STREAMS,
            "stream_bytes": STREAM,
            "trained_kept": last["kept"],
            "rules": {name: read(rule, held_out) for name, rule in rules.items()},
        },
    )


@torch.no_grad()
def read(model: LaLTE, text: bytes) -> dict[str, float]:
    """Perplexity a byte over streams spread evenly over a text, and what heads kept of each."""
    near, far, kept = [], [], []
    ids = torch.frombuffer(bytearray(text), dtype=torch.uint8).long()
    for first in range(0, len(ids) - STREAM, (len(ids) - STREAM) // STREAMS)[:STREAMS]:
        tokens = ids[first : first + STREAM + 1]
        slots = StateSlots.allocate(model.config, 1)
        logits = model.forward(tokens[None, :-1], slots.view(0))[0]
        losses = functional.cross_entropy(logits, tokens[1:], reduction="none")
        near.append(float(losses[:LENGTH].mean()))
        far.append(float(losses[LENGTH:].mean()))
        kept += [len(head.positions) for head in slots.retained(0)]
    return {
        "perplexity_to_trained_length": math.exp(sum(near) / len(near)),
        "perplexity_beyond": math.exp(sum(far) / len(far)),
        "kept_mean": sum(kept) / len(kept),
        "kept_most": max(kept),
    }


if __name__ == "__main__":
    main()
