"""What a run needs to go on exactly, as safetensors in one folder a checkpoint.

`step-00000500/` holds model.safetensors (fp32, the model's own names, and the controller as
model.l1_lambda and model.num_kept, as published checkpoints have them), optimiser.safetensors and
state.json. A folder appears whole or not at all. Random numbers need no saving: data and dropout
are functions of the seed and the step.
"""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from lalte.train.errors import TrainError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor, nn

    from lalte.train.penalty import PenaltyController
    from lalte.train.ranks import Ranks

KEPT_CHECKPOINTS = 2
_PREFIX = "lm."  # the model's name inside ParallelModel
_LAMBDA, _KEPT = "model.l1_lambda", "model.num_kept"
_WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


def checkpoints(run: Path) -> list[Path]:
    """A run's checkpoints, oldest first."""
    return sorted(path for path in run.glob("step-*") if path.is_dir())


def save_checkpoint(
    run: Path,
    step: int,
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    penalty: PenaltyController,
    identity: Mapping[str, Any],
    ranks: Ranks,
) -> None:
    """Write a checkpoint after `step` steps; every process must call it, rank 0 writes.

    identity: what a run that goes on must have in common with this one.
    """
    weights: dict[str, Any] = get_model_state_dict(model, options=_WHOLE)
    moments: dict[str, Any] = get_optimizer_state_dict(model, optimiser, options=_WHOLE)
    if ranks.rank == 0:
        tensors = {name.removeprefix(_PREFIX): x.contiguous() for name, x in weights.items()}
        tensors |= {_LAMBDA: penalty.strength.cpu(), _KEPT: penalty.kept.cpu()}
        draft = run / f".step-{step:08d}.draft"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        save_file(tensors, draft / "model.safetensors")
        save_file(_flat(moments["state"]), draft / "optimiser.safetensors")
        body = {"step": step, "identity": dict(identity)}
        (draft / "state.json").write_text(json.dumps(body, indent=1, sort_keys=True) + "\n")
        draft.rename(run / f"step-{step:08d}")
        for old in checkpoints(run)[:-KEPT_CHECKPOINTS]:
            shutil.rmtree(old)
    ranks.wait()


def load_checkpoint(
    folder: Path,
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    penalty: PenaltyController,
    identity: Mapping[str, Any],
) -> int:
    """Put a checkpoint into model, optimiser and controller; returns the steps done.

    Raises TrainError where it cannot be read or belongs to a run of another identity.
    """
    try:
        body = json.loads((folder / "state.json").read_text("utf-8"))
        weights = load_file(folder / "model.safetensors")
        moments = load_file(folder / "optimiser.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        raise TrainError(
            folder, f"cannot be read ({error}); remove it to go on from the one before"
        ) from error
    for name, value in identity.items():
        if body["identity"].get(name) != value:
            raise TrainError(
                folder,
                f"was made with {name} {body['identity'].get(name)!r}, and the run's file says "
                f"{value!r}: give the new run a folder of its own",
            )
    penalty.strength.copy_(weights.pop(_LAMBDA))
    penalty.kept.copy_(weights.pop(_KEPT))
    set_model_state_dict(model, {_PREFIX + n: x for n, x in weights.items()}, options=_WHOLE)
    found: dict[str, Any] = get_optimizer_state_dict(model, optimiser, options=_WHOLE)
    found["state"] = _nested(moments)
    set_optimizer_state_dict(model, optimiser, found, options=_WHOLE)
    return int(body["step"])


def _flat(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """{parameter: {moment: tensor}} -> {"moment/parameter": tensor}."""
    return {
        f"{moment}/{name}": torch.as_tensor(value).contiguous()
        for name, moments in state.items()
        for moment, value in moments.items()
    }


def _nested(flat: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    state: dict[str, dict[str, Tensor]] = {}
    for key, value in flat.items():
        moment, name = key.split("/", 1)
        state.setdefault(name, {})[moment] = value
    return state
