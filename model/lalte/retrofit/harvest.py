"""Runs the teacher over many streams once and keeps what the routers learn from on disk.

The teacher costs most of the time, so its views are shards that any number of fits can read. A
shard is a function of the plan and its index: a harvest that was stopped goes on where it was.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file, save_file

from lalte.retrofit.errors import RetrofitError
from lalte.retrofit.teacher import teach

if TYPE_CHECKING:
    from pathlib import Path

    from lalte.model import LaLTE
    from lalte.retrofit.data import StreamWriter

_log = logging.getLogger(__name__)

PLAN_FILE = "plan.json"


@dataclass(frozen=True)
class HarvestPlan:
    """What a folder of shards is made from; two plans never share a folder.

    seed: of the streams. layers: those whose routers learn, rising. window: attention nearer than
    this does not count outside the questions. general_queries: positions of a text whose attention
    is looked at. templates, tokens, facts: what the writer was given. base_sha256, data_sha256: of
    the inputs.
    """

    seed: int
    layers: tuple[int, ...]
    window: int
    general_queries: int
    templates: str
    tokens: int
    facts: tuple[int, int]
    base_sha256: str
    data_sha256: str


@dataclass(frozen=True)
class Shard:
    """The told text of one stream, n tokens, as the heads of the plan's layers saw it.

    k, v: [layers, kv_heads, n, head_dim] in the teacher's dtype. asked, general:
    [layers, kv_heads, n] fp32, see `LayerView`. tokens: int32 [n]. fact: int16 [n]. value: bool
    [n], see `MemoryStream`.
    """

    k: torch.Tensor
    v: torch.Tensor
    asked: torch.Tensor
    general: torch.Tensor
    tokens: torch.Tensor
    fact: torch.Tensor
    value: torch.Tensor


def harvest(
    teacher: LaLTE, writer: StreamWriter, plan: HarvestPlan, count: int, folder: Path
) -> list[Path]:
    """Make those of the plan's first `count` shards that `folder` lacks; returns them, in order.

    Raises RetrofitError when the folder holds shards of another plan.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _claim(folder, plan)
    paths = [folder / f"{index:05}.safetensors" for index in range(count)]
    for index, path in enumerate(paths):
        if path.exists():
            continue
        _write(path, _view(teacher, writer, plan, index))
        _log.info("harvested stream %d of %d", index + 1, count)
    return paths


def read_shard(path: Path) -> Shard:
    """Read one shard."""
    tensors = load_file(path)
    tensors["asked"] = tensors["asked"].float()
    tensors["general"] = tensors["general"].float()
    return Shard(**tensors)


def _view(teacher: LaLTE, writer: StreamWriter, plan: HarvestPlan, index: int) -> Shard:
    stream = writer.write(plan.seed, index)
    told = stream.told
    generator = torch.Generator().manual_seed(plan.seed * 1_000_003 + index)
    # The first `window` positions have nothing far behind them.
    late = torch.randperm(max(told - plan.window, 0), generator=generator) + plan.window
    general = late[: plan.general_queries].sort().values
    seen = teach(teacher, stream.tokens, told, general, plan.window)
    views = [view for layer, view in enumerate(seen) if layer in plan.layers]
    return Shard(
        k=torch.stack([view.k for view in views]),
        v=torch.stack([view.v for view in views]),
        asked=torch.stack([view.asked for view in views]),
        general=torch.stack([view.general for view in views]),
        tokens=stream.tokens[:told].to(torch.int32),
        fact=stream.fact[:told],
        value=stream.value[:told],
    )


def _write(path: Path, shard: Shard) -> None:
    tensors = {name: value.contiguous() for name, value in vars(shard).items()}
    tensors["asked"] = tensors["asked"].half()
    tensors["general"] = tensors["general"].half()
    draft = path.with_suffix(".draft")
    save_file(tensors, draft)
    draft.replace(path)


def _claim(folder: Path, plan: HarvestPlan) -> None:
    text = json.dumps(asdict(plan), indent=1, sort_keys=True) + "\n"
    path = folder / PLAN_FILE
    if not path.exists():
        path.write_text(text, encoding="utf-8")
    elif path.read_text(encoding="utf-8") != text:
        raise RetrofitError(
            path, "is another plan's; give this run a folder of its own, or remove the old shards"
        )
