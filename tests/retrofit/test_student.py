"""What is fitted is what is served: whole sequences against states."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lalte.config import FullConfig, LocalGDNConfig, LTEConfig, SWAConfig
from lalte.init import random_model
from lalte.model import LaLTE
from lalte.presets import tiny_lalte
from lalte.retrofit.student import Student

LENGTH = 48
BRANCH = LocalGDNConfig(window=5, rank=8, sinks=2)


@pytest.fixture
def base() -> LaLTE:
    return random_model(tiny_lalte(("lte", "full", "lte")), 3, torch.float32)


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randint(0, 512, (LENGTH,))


def served(student: Student, tokens: torch.Tensor, kind=None) -> torch.Tensor:
    """Logits of the student's weights, read through a state, its branches' layers as `kind`."""
    layers = student.model.config.layers
    if kind is not None:
        layers = tuple(kind if isinstance(x, LocalGDNConfig) else x for x in layers)
    model = LaLTE(replace(student.model.config, layers=layers))
    weights = student.model.state_dict()
    model.load_state_dict({name: weights[name] for name in model.state_dict()})
    return model.logits(tokens[None])[0]


@torch.no_grad()
def test_a_student_is_the_model_that_is_served(base: LaLTE, tokens: torch.Tensor):
    student = Student(base, {0: BRANCH, 2: BRANCH}, seed=1)
    for parameter in student.masters.values():
        parameter += torch.randn_like(parameter) * 0.1
    actual = student.logits(student.forward(tokens))
    torch.testing.assert_close(actual, served(student, tokens), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_its_teacher_and_its_windows_are_those_layers(base: LaLTE, tokens: torch.Tensor):
    student = Student(base, {0: BRANCH, 2: BRANCH}, seed=1)
    teacher = student.logits(student.teacher(tokens))
    torch.testing.assert_close(teacher, served(student, tokens, FullConfig()), atol=1e-4, rtol=1e-4)
    windowed = student.logits(student.windowed(tokens, 7))
    torch.testing.assert_close(
        windowed, served(student, tokens, SWAConfig(7)), atol=1e-4, rtol=1e-4
    )


@torch.no_grad()
def test_windows_with_sinks_are_lte_that_retains_nothing_else(tokens: torch.Tensor):
    config = tiny_lalte(("lte", "full"), eviction_grid="token", positions="absolute")
    sparse = LTEConfig(window=20, budgets=(3, 3), sinks=3)
    base = random_model(replace(config, layers=(sparse, FullConfig())), 3, torch.float32)
    student = Student(base, {0: BRANCH}, seed=1)
    actual = student.logits(student.windowed(tokens, 21, sinks=3))
    torch.testing.assert_close(actual, base.logits(tokens[None])[0], atol=1e-4, rtol=1e-4)
    alone = student.logits(student.windowed(tokens, 21))
    assert (actual - alone).abs().max() > 0.01
