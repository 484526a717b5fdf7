"""Fits local GDN layers to the attention that they replace, then to the whole model's predictions.

Three phases, each a number of steps on one sequence each:

    teacher   every branch at once, on the teacher's own rows: what full attention gives for them
              is the target, and the error counts after the output projection
    own       the same on the student's rows, so that later layers meet what earlier ones do
    distill   the student's predictions against the teacher's (KL), through the frozen layers
"""

from __future__ import annotations

import json
import logging
import time
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch.nn import functional

from lalte.retrofit.student import Student, in_parts
from lalte.retrofit.whole import (
    attending,
    attention_inputs,
    full_attention,
    local_attention,
    old_mass,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from lalte.retrofit.config import PhaseConfig

_log = logging.getLogger(__name__)

PhaseKind = Literal["teacher", "own", "distill"]

CHECKPOINT_FILE = "branches.pt"
LOG_FILE = "branches.jsonl"
WARMUP_STEPS = 5
_LAST_RATE = 0.1  # of the learning rate, at a phase's end
_CLIP = 1.0  # largest norm of a branch's gradient


class BranchFitting:
    """A student, its optimiser, phase and step, in memory and in the run folder."""

    def __init__(
        self, student: Student, write: Callable[[PhaseKind, int, int], torch.Tensor], run: Path
    ) -> None:
        """write: (phase, index, length) -> a training sequence; no index comes twice."""
        self.student = student
        self._write = write
        self._run = run
        self._phase, self._step, self._read = 0, 0, 0
        self._scale: dict[int, float] = {}
        self._optimiser = self._new_optimiser()
        run.mkdir(parents=True, exist_ok=True)

    def fit(
        self, phases: Sequence[tuple[PhaseKind, PhaseConfig]], checkpoint_steps: int
    ) -> Student:
        """Go on to the end of the last phase."""
        if not self._resume():
            kind, phase = phases[0]
            self._start(self._write(kind, 0, phase.tokens))
        while self._phase < len(phases):
            kind, phase = phases[self._phase]
            while self._step < phase.steps:
                started = time.process_time()
                facts = self._advance(kind, phase)
                facts["seconds"] = round(time.process_time() - started, 2)
                self._note({"phase": kind, "step": self._step} | facts)
                if self._step % checkpoint_steps == 0:
                    self._save()
            self._phase, self._step = self._phase + 1, 0
            self._optimiser = self._new_optimiser()
            self._save()
        return self.student

    def _advance(self, kind: PhaseKind, phase: PhaseConfig) -> dict[str, Any]:
        for group in self._optimiser.param_groups:
            group["lr"] = phase.learning_rate * _rate(self._step, phase.steps)
        self._optimiser.zero_grad(set_to_none=True)
        tokens = self._write(kind, self._read, phase.tokens)
        if kind == "distill":
            facts: dict[str, Any] = {"kl": round(distill(self.student, tokens), 5)}
        else:
            losses = regress(self.student, tokens, self._scale, own=kind == "own")
            mean = sum(losses.values()) / len(losses)
            facts = {"mean": round(mean, 4), "layers": {i: round(x, 3) for i, x in losses.items()}}
        for mixer in self.student.branches.values():
            trained = [x for x in mixer.parameters() if x.requires_grad]
            torch.nn.utils.clip_grad_norm_(trained, _CLIP)
        self._optimiser.step()
        self._step += 1
        self._read += 1
        return facts

    @torch.no_grad()
    def _start(self, tokens: torch.Tensor) -> None:
        """Put biases and sizes where a first sequence says they belong, and note the scale."""
        student = self.student
        x: torch.Tensor = student.model.model.embeddings(tokens)
        for index, block in enumerate(student.model.blocks()):
            inputs = attention_inputs(block, block.attn_norm(x))
            full = full_attention(attending(block), inputs)
            if index in student.branches:
                mixer = student.branches[index]
                mixer.null_bias.copy_(old_mass(mixer, inputs).mean(dim=1))
                null = mixer.null_bias.expand(len(tokens), -1)
                rest = full - local_attention(mixer, inputs, null)
                mixer.o_norm.weight.fill_(float(rest.float().square().mean().sqrt()))
                lost = mixer.output(full - local_attention(mixer, inputs))
                self._scale[index] = float(lost.float().square().mean())
            x = block.finish(x, full)

    def _new_optimiser(self) -> torch.optim.AdamW:
        return torch.optim.AdamW(self.student.masters.values(), weight_decay=0.0, betas=(0.9, 0.98))

    def _note(self, facts: dict[str, Any]) -> None:
        with (self._run / LOG_FILE).open("a", encoding="utf-8") as log:
            log.write(json.dumps(facts) + "\n")

    def _save(self) -> None:
        draft = self._run / f"{CHECKPOINT_FILE}.draft"
        state = {
            "phase": self._phase,
            "step": self._step,
            "read": self._read,
            "scale": self._scale,
            "masters": {n: x.detach() for n, x in self.student.masters.items()},
            "optimiser": self._optimiser.state_dict(),
        }
        torch.save(state, draft)
        draft.replace(self._run / CHECKPOINT_FILE)

    def _resume(self) -> bool:
        path = self._run / CHECKPOINT_FILE
        if not path.exists():
            return False
        saved = torch.load(path, weights_only=True)
        self._phase, self._step, self._read = saved["phase"], saved["step"], saved["read"]
        self._scale = saved["scale"]
        with torch.no_grad():
            for name, parameter in self.student.masters.items():
                parameter.copy_(saved["masters"][name])
        self._optimiser.load_state_dict(saved["optimiser"])
        _log.info("going on from phase %d, step %d", self._phase, self._step)
        return True


def regress(
    student: Student, tokens: torch.Tensor, scale: dict[int, float], *, own: bool
) -> dict[int, float]:
    """Add each branch's gradient; returns each layer's squared error over `scale`.

    scale: per layer, the squared error of its window alone. own: rows are the student's.
    """
    losses = {}
    x: torch.Tensor = student.model.model.embeddings(tokens)
    for index, block in enumerate(student.model.blocks()):
        h = block.attn_norm(x)
        if index in student.branches:
            inputs, mixed = student.branch(index, h)
            full = full_attention(attending(block), inputs)
            error = block.attn.output(mixed - full).float().square().mean() / scale[index]
            error.backward()  # type: ignore[no-untyped-call]
            losses[index] = float(error.detach())
            mixed = mixed.detach() if own else full
        else:
            mixed = full_attention(attending(block), attention_inputs(block, h))
        x = block.finish(x, mixed)
    return losses


def distill(student: Student, tokens: torch.Tensor) -> float:
    """Add the gradient of the mean KL(teacher || student) over all rows; returns that mean."""
    with torch.no_grad():
        taught = student.teacher(tokens)
    rows = student.forward(tokens)
    reached = rows.detach().requires_grad_()
    total = 0.0
    for right, own in zip(in_parts(taught), in_parts(reached), strict=True):
        with torch.no_grad():
            target = student.logits(right).log_softmax(dim=-1)
        guess = student.logits(own).log_softmax(dim=-1)
        loss = functional.kl_div(guess, target, reduction="sum", log_target=True) / len(tokens)
        loss.backward()  # type: ignore[no-untyped-call]
        total += float(loss.detach())
    rows.backward(reached.grad)  # type: ignore[no-untyped-call]
    return total


def _rate(step: int, steps: int) -> float:
    warm = min(1.0, (step + 1) / WARMUP_STEPS)
    return warm * (_LAST_RATE + (1 - _LAST_RATE) * (1 - step / steps))
