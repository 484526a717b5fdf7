"""The one file that calls the model. It owns the state slots of sessions and of lanes."""

from __future__ import annotations

import math
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch

from lalte.checkpoints.load import load_model
from lalte.config import LTEConfig
from lalte.sampling import SamplingParams, sample
from lalte.state import Array as StateArray
from lalte.state import StateError, StateSlots, copy_slot, growing_nbytes, nbytes
from lalte_kernels import ROUNDING_REVISION
from memoryd.engine.errors import StateRefused
from memoryd.engine.messages import (
    Captured,
    EngineInfo,
    InspectedHead,
    InspectedToken,
    Inspection,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from lalte.model import LaLTE
    from lalte.state import RetainedTokens
    from memoryd.engine.messages import Array, EngineOptions, Sampling
    from memoryd.engine.replies import Draw
    from memoryd.engine.scheduler import AbsorbItem

_DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


class ModelRunner:
    """Runs `model` for the engine's loop; see memoryd.engine.loop.Runner for the contract."""

    def __init__(self, model: LaLTE, info: EngineInfo, options: EngineOptions) -> None:
        dtype = _DTYPES[options.dtype]
        self.info = info
        self._model = model
        self._threads = _threads(options)
        self._sessions = StateSlots.allocate(model.config, options.slots, dtype=dtype)
        self._lanes = StateSlots.allocate(model.config, options.lanes, dtype=dtype)

    @classmethod
    def load(cls, folder: Path, options: EngineOptions) -> ModelRunner:
        """Loads a model folder. Raises lalte's ModelNotFound and CheckpointError."""
        dtype = _DTYPES[options.dtype]
        loaded = load_model(folder, dtype=dtype)
        config = loaded.config
        made = loaded.manifest.provenance
        info = EngineInfo(
            model=made.name,
            fingerprint=loaded.fingerprint,
            numerics=numerics(options),
            layer_kinds=tuple(layer.kind for layer in config.layers),
            parameters=sum(p.numel() for p in loaded.model.parameters()),
            vocab_size=config.vocab_size,
            chunk=config.chunk,
            state_bytes=nbytes(config, dtype),
            max_prompt_tokens=config.max_position,
            notes=made.notes,
            routers=made.routers,
            token_bytes=growing_nbytes(config, dtype, 1),
        )
        return cls(loaded.model, info, options)

    @contextmanager
    def activate(self) -> Iterator[None]:
        torch.set_num_threads(self._threads)
        with torch.inference_mode():
            yield

    # Sessions.

    def reset(self, slot: int) -> None:
        self._sessions.reset(slot)

    def load_slot(self, slot: int, arrays: Mapping[str, Array], offset: int) -> None:
        state = {
            name: StateArray(array.dtype, tuple(array.shape), array.data)
            for name, array in arrays.items()
        }
        if offset % self.info.chunk:
            raise StateRefused(f"offset {offset} is not a multiple of {self.info.chunk}")
        try:
            self._sessions.load_arrays(slot, state, offset)
        except StateError as error:
            raise StateRefused(str(error)) from error

    def offset(self, slot: int) -> int:
        return self._sessions.offsets[slot]

    def capture(self, slot: int) -> Captured:
        arrays = self._sessions.to_arrays(slot)
        for name, array in arrays.items():
            if not _is_finite(array):
                raise StateRefused(f"{name} holds a value that is not finite")
        offset, config = self.offset(slot), self._model.config
        return Captured(
            offset,
            arrays,
            self._sessions.checksum(slot),
            growing_nbytes(config, self._sessions.dtype, offset),
        )

    def inspect(self, slot: int, layers: Sequence[int], limit: int) -> Inspection:
        heads = tuple(
            self._inspect_head(kept, limit)
            for kept in self._sessions.retained(slot)
            if kept.layer in layers
        )
        return Inspection(self.offset(slot), self._sessions.checksum(slot), heads)

    def _inspect_head(self, kept: RetainedTokens, limit: int) -> InspectedHead:
        layer = self._model.config.layers[kept.layer]
        if not isinstance(layer, LTEConfig):
            raise TypeError(f"layer {kept.layer} keeps no tokens")
        rows = zip(kept.positions, kept.token_ids, kept.logits, strict=True)
        # The order in which the layer would give them up, last first.
        ranked = sorted(rows, key=lambda row: (row[0] >= layer.sinks, -row[2], row[0]))
        tokens = tuple(
            InspectedToken(position, token, _sigmoid(logit), position < layer.sinks)
            for position, token, logit in ranked[:limit]
        )
        budget = layer.budgets[kept.head]
        return InspectedHead(kept.layer, kept.head, len(ranked), budget, tokens)

    def absorb(self, items: Sequence[AbsorbItem]) -> None:
        tokens = torch.tensor([item.tokens for item in items], dtype=torch.int64)
        self._model.absorb(tokens, [self._sessions.view(item.slot) for item in items])

    # Lanes.

    def copy_to_lane(self, slot: int, lane: int) -> None:
        copy_slot(self._sessions, slot, self._lanes, lane)

    def move_lane(self, source: int, target: int) -> None:
        copy_slot(self._lanes, source, self._lanes, target)

    def read(self, lane: int, tokens: Sequence[int]) -> None:
        self._extend(lane, tokens)

    def read_and_draw(self, lane: int, tokens: Sequence[int], draw: Draw) -> int | None:
        if tokens:
            logits = self._extend(lane, tokens)
        else:
            logits = self._model.last_logits(self._lanes.view(lane))[0]
        return _draw(logits[None], [draw])[0]

    def decode(self, tokens: Sequence[int], draws: Sequence[Draw]) -> list[int | None]:
        lanes = self._lanes.view(0, len(tokens))
        logits = self._model.step(torch.tensor(tokens, dtype=torch.int64), lanes)
        return _draw(logits, draws)

    def _extend(self, lane: int, tokens: Sequence[int]) -> torch.Tensor:
        """Logits [vocab] behind the last of `tokens`."""
        return self._model.extend(torch.tensor(tokens, dtype=torch.int64), self._lanes.view(lane))


def numerics(options: EngineOptions) -> str:
    """What decides the bits of a state besides the model, in a short readable string."""
    instructions = torch.backends.cpu.get_cpu_capability()
    return (
        f"{instructions} torch-{torch.__version__} {options.dtype} threads-{_threads(options)} "
        f"rounding-{ROUNDING_REVISION}"
    )


def _threads(options: EngineOptions) -> int:
    return options.threads or os.cpu_count() or 1


def _draw(logits: torch.Tensor, draws: Sequence[Draw]) -> list[int | None]:
    """logits: [lanes, vocab]. One token a lane, None for a lane whose logits are not finite."""
    finite = logits.isfinite().all(dim=-1).tolist()
    good = [lane for lane, ok in enumerate(finite) if ok]
    ids = sample(
        logits[good],
        [_params(draws[lane].sampling) for lane in good],
        [draws[lane].history for lane in good],
        [draws[lane].position for lane in good],
    )
    drawn: list[int | None] = [None] * len(draws)
    for lane, token in zip(good, ids, strict=True):
        drawn[lane] = token
    return drawn


def _params(sampling: Sampling) -> SamplingParams:
    # Callers count seeds without a sign, the sampler with one: the same 64 bits.
    seed = sampling.seed - 2**64 if sampling.seed >= 2**63 else sampling.seed
    return SamplingParams(
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        repetition_penalty=sampling.repetition_penalty,
        seed=seed,
        max_tokens=sampling.max_tokens,
    )


def _sigmoid(logit: float) -> float:
    # exp of a large positive number overflows.
    return 1 / (1 + math.exp(-logit)) if logit >= 0 else 1 - 1 / (1 + math.exp(logit))


def _is_finite(array: Array) -> bool:
    match array.dtype:
        case "bfloat16":
            # numpy knows no bfloat16: inf and nan have all eight exponent bits set.
            exponents = np.frombuffer(array.data, dtype="<u2") & 0x7F80
            return not bool((exponents == 0x7F80).any())
        case "float32":
            return bool(np.isfinite(np.frombuffer(array.data, dtype="<f4")).all())
        case "float64":
            return bool(np.isfinite(np.frombuffer(array.data, dtype="<f8")).all())
        case _:
            return True
