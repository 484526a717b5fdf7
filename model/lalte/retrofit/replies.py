"""What the teacher answers to ordinary requests: text of its own to learn its predictions on.

Books and recorded dialogues are not what a chat model writes. Its greedy replies are, and on them
its predictions are sharpest, so a difference shows first there. The requests are drawn from
prompts.txt and topics.txt, which share nothing with what an evaluation asks.
"""

from __future__ import annotations

import json
import logging
import random
from dataclasses import replace
from importlib.resources import files
from typing import TYPE_CHECKING

import torch

from lalte.config import SWAConfig
from lalte.model import LaLTE
from lalte.state import StateSlots
from lalte.text import Role

if TYPE_CHECKING:
    from pathlib import Path

    from lalte.checkpoints.load import LoadedModel

_log = logging.getLogger(__name__)

REPLIES_FILE = "replies.jsonl"
_TOGETHER = 32  # requests that are answered at once
_REQUEST_TOKENS = 256  # more than a request has, with what begins a stream


def draw_request(seed: int, index: int) -> str:
    """Request `index` of `seed`."""
    # Text as a seed is hashed the same everywhere.
    rng = random.Random(f"request {seed} {index}")  # noqa: S311  nothing secret
    prompt, topics = rng.choice(_lines("prompts.txt")), _lines("topics.txt")
    return prompt.format(*rng.sample(topics, prompt.count("{}")))


def write_replies(
    loaded: LoadedModel, seed: int, count: int, tokens: int, run: Path
) -> list[list[int]]:
    """Answer `count` requests with at most `tokens` tokens each, greedily, in the run folder.

    loaded: any model that holds the teacher's weights. Returns each turn of the request and its
    reply as ids, without what begins a stream. What the folder has already is read from it.
    """
    path = run / REPLIES_FILE
    turns = [json.loads(row) for row in path.read_text().splitlines()] if path.exists() else []
    teacher = None
    while len(turns) < count:
        teacher = _windowed(loaded, tokens) if teacher is None else teacher
        last = min(len(turns) + _TOGETHER, count)
        written = _answer(loaded, teacher, range(len(turns), last), seed, tokens)
        with path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(turn) + "\n" for turn in written)
        turns += written
        _log.info("the teacher has answered %d of %d requests", len(turns), count)
    return turns[:count]


def _windowed(loaded: LoadedModel, tokens: int) -> LaLTE:
    """The teacher for as long as a stream fits a window: its state has a fixed size."""
    everything = SWAConfig(window=_REQUEST_TOKENS + tokens)
    layers = (everything,) * len(loaded.config.layers)
    model = LaLTE(replace(loaded.config, layers=layers), loaded.model.dtype)
    weights = loaded.model.state_dict()
    model.load_state_dict({name: weights[name] for name in model.state_dict()})
    return model


@torch.no_grad()
def _answer(
    loaded: LoadedModel, teacher: LaLTE, indices: range, seed: int, tokens: int
) -> list[list[int]]:
    turns = loaded.turn_format
    asked = [
        turns.open(Role.USER)
        + loaded.tokenizer.encode_plain(draw_request(seed, index))
        + turns.close(Role.USER)
        + turns.reply_prefix
        for index in indices
    ]
    slots = StateSlots.allocate(teacher.config, len(asked), teacher.dtype)
    begun = turns.start(Role.USER)
    logits = torch.stack(
        [
            teacher.extend(torch.tensor(begun + ids), slots.view(lane))
            for lane, ids in enumerate(asked)
        ]
    )
    replies: list[list[int]] = [[] for _ in asked]
    ended = [False] * len(asked)
    for _ in range(tokens):
        chosen = logits.argmax(dim=-1)
        for lane, token in enumerate(chosen.tolist()):
            ended[lane] = ended[lane] or token in turns.stop_ids
            if not ended[lane]:
                replies[lane].append(token)
        if all(ended):
            break
        logits = teacher.step(chosen, slots.view(0, len(asked)))
    close = turns.close(Role.ASSISTANT)
    return [a + reply + close for a, reply in zip(asked, replies, strict=True)]


def _lines(name: str) -> list[str]:
    return files("lalte.retrofit").joinpath(name).read_text(encoding="utf-8").splitlines()
