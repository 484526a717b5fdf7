"""What the family's experiment trains, on what, and from which start.

Everything is chosen so that some hundred steps on one core teach recall at all. Three things make
that possible, the same for every member: lessons that grow in length and pairs and ask at half of
their places; embeddings that are not drowned by what the first layers add; and weights that begin
near what recall needs (mimetic initialisation, arXiv 2410.11135): keys like queries, outputs that
undo values, short convolutions that average. Decays start as the paper's.

A window of 32 and a budget of 48 are to 256 tokens about what the paper's 768 and 512 are to 4096.
The window of SWA is 80, so that both see as many keys.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from lalte.config import LayerConfig, LTEConfig, ModelConfig, SWAConfig
from lalte.family import member
from lalte.layers.attention import Attention
from lalte.layers.gdn import GatedDeltaNet
from lalte.layers.lte import LTEAttention
from lalte.model import LaLTE
from lalte.train.config import TrainConfig
from lalte.train.parallel import Score, router_logits
from lalte.train.tasks import RecallTask, TaskName
from lalte_kernels import Router

VOCABULARY = 192
LENGTH = 256
LENGTHS = (LENGTH, 2 * LENGTH, 4 * LENGTH, 8 * LENGTH)
PAIRS = 32
WINDOW, BUDGET = 32, 48  # of LTE
TASKS: tuple[TaskName, ...] = ("mqar", "needle")
BATCH = 16  # sequences of a step at most
RATE = 5e-3
WIDTH_STEP = 16  # widths of MLPs are multiples of it
EMBEDDING = 0.1
# What mixers and MLPs add to the residual stream at first, of what would keep its scale.
MIXED, MLP = 0.6, 0.2
ALIKE = 0.8  # share of a query's weights that are the key's
ROUTER_BIAS = 2.0  # a rate so high would make routers drop all before they have learned anything
TAP, TAP_NOISE = 0.3, 0.1


@dataclass(frozen=True)
class Lesson:
    """Some steps of training. pairs: at most; half as many at least. rows: sequences a step."""

    length: int
    pairs: int
    rows: int
    steps: int


LESSONS = (Lesson(64, 4, 16, 200), Lesson(128, 10, 16, 80), Lesson(LENGTH, PAIRS, 8, 160))
STEPS = sum(lesson.steps for lesson in LESSONS)
TOKENS = sum(lesson.rows * lesson.length * lesson.steps for lesson in LESSONS)


@dataclass(frozen=True)
class Contestant:
    """What is trained. score: None is the paper's router."""

    name: str
    config: ModelConfig
    score: Score | None = None


def contestants() -> list[Contestant]:
    """All that is trained, the members first."""
    lalte = sized("lalte")
    alone = [
        replace(layer, router_kernel=1) if isinstance(layer, LTEConfig) else layer
        for layer in lalte.layers
    ]
    names = ("lalte", "gdn", "gdn-swa", "lansa", "transformer++")
    return [
        *(Contestant(name, sized(name)) for name in names),
        Contestant("lalte, token alone", replace(lalte, layers=tuple(alone))),
        Contestant("lalte, no future", lalte, blind),
    ]


def sized(name: str) -> ModelConfig:
    """A member with as many parameters as laLTE has, by the width of its MLPs."""
    config, wanted = scaled(name), parameters(scaled("lalte"))
    wider = (wanted - parameters(config)) / (3 * config.hidden_size * len(config.layers))
    width = config.intermediate_size + WIDTH_STEP * round(wider / WIDTH_STEP)
    return replace(config, intermediate_size=width)


def scaled(name: str) -> ModelConfig:
    """A tiny member with this experiment's vocabulary, sizes of state and span of positions.

    A retained token stands at most a trained length back, so that up to there positions are
    absolute, as in training, and beyond they stay among those that training has shown.
    """
    tiny = member(name, "tiny", VOCABULARY)
    layers = tuple(map(_scaled_layer, tiny.layers))
    return replace(tiny, layers=layers, position_span=LENGTH, max_position=LENGTH)


def _scaled_layer(layer: LayerConfig) -> LayerConfig:
    if isinstance(layer, LTEConfig):
        return replace(layer, budgets=(BUDGET,) * len(layer.budgets))
    if isinstance(layer, SWAConfig):
        return replace(layer, window=WINDOW + BUDGET)
    return layer


def parameters(config: ModelConfig) -> int:
    return sum(p.numel() for p in LaLTE(config, torch.float32, torch.device("meta")).parameters())


def run_config(seed: int) -> TrainConfig:
    return TrainConfig.model_validate(
        {
            "seed": seed,
            "model": "given",
            "data": {"kind": "mqar", "pairs": 1},
            "length": LENGTH,
            "steps": STEPS,
            "batch": BATCH,
            "micro_batch": BATCH,
            "precision": "bfloat16",
            "optimiser": {"learning_rate": RATE, "warmup_steps": 30},
            # The price of keeping doubles every 30 steps, and is felt in the last hundred: a head
            # that has once dropped everything learns no more from questions that come later.
            "penalty": {
                "dropout": 0.1,
                "update_steps": 4,
                "raise_factor": 1.1,
                "lower_factor": 1.3,
                "floor": 3e-7,
            },
            "checkpoint_steps": STEPS,
        }
    )


class Lessons:
    """The sequences of LESSONS, half MQAR and half needles: a function of (seed, index) alone."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def batch(self, first: int, rows: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        lesson = lesson_of(first // BATCH)
        drawn = [self._sample(lesson, first + row) for row in rows if row < lesson.rows]
        return torch.stack([x for x, _ in drawn]), torch.stack([y for _, y in drawn])

    def _sample(self, lesson: Lesson, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(self._seed * 1_000_000_007 + index)
        pairs = int(torch.randint(lesson.pairs // 2, lesson.pairs + 1, (), generator=generator))
        name = TASKS[index % 2]
        questions = {"mqar": (lesson.length - 2 * pairs) // 2, "needle": lesson.length // 4}
        task = RecallTask(name, lesson.length, pairs, VOCABULARY, questions[name])
        return task.sample(generator)


def lesson_of(step: int) -> Lesson:
    for lesson in LESSONS:
        if step < lesson.steps:
            return lesson
        step -= lesson.steps
    raise ValueError(f"training ends before step {step}")


@torch.no_grad()
def start(model: LaLTE, seed: int) -> None:
    """Give an initialised model the start that the module's text describes."""
    generator = torch.Generator().manual_seed(seed)

    def draw(weight: torch.Tensor, std: float) -> None:
        weight.copy_(torch.randn(weight.shape, generator=generator) * std)

    draw(model.model.embeddings.weight, EMBEDDING)
    for index, block in enumerate(model.blocks()):
        hidden = model.config.hidden_size
        mlp, mixer = block.mlp, block.attn
        draw(mlp.gate_proj.weight, hidden**-0.5)
        draw(mlp.up_proj.weight, hidden**-0.5)
        mlp.down_proj.weight.mul_(MLP)
        if not isinstance(mixer, GatedDeltaNet | Attention):
            raise TypeError(f"no start is known for {type(mixer).__name__}")
        for linear in (mixer.q_proj, mixer.k_proj, mixer.v_proj):
            draw(linear.weight, hidden**-0.5)
        group = mixer.q_proj.weight.shape[0] // mixer.k_proj.weight.shape[0]
        key, value = (_repeat(x.weight, mixer, group) for x in (mixer.k_proj, mixer.v_proj))
        mixer.o_proj.weight.copy_(value.mT * MIXED / group)
        # The first layer of a Transformer++ has to look at the token before, not at its like.
        if isinstance(mixer, GatedDeltaNet) or index % 2:
            query = mixer.q_proj.weight
            query.copy_(ALIKE * key + (1 - ALIKE**2) ** 0.5 * query)
        if isinstance(mixer, LTEAttention):
            mixer.router.conv_stack.proj.bias.fill_(ROUTER_BIAS)
        if isinstance(mixer, GatedDeltaNet):
            draw(mixer.g_proj.weight, hidden**-0.5)
            for conv in (mixer.q_conv1d, mixer.k_conv1d, mixer.v_conv1d):
                draw(conv.weight, TAP_NOISE)
                conv.weight.add_(TAP)


def _repeat(
    weight: torch.Tensor, mixer: GatedDeltaNet | Attention[Any], group: int
) -> torch.Tensor:
    """Weights of keys or values, each head's as often as query heads share it."""
    heads = mixer.kv_heads if isinstance(mixer, Attention) else mixer.heads
    return weight.view(heads, -1, weight.shape[-1]).repeat_interleave(group, 0).flatten(0, 1)


def blind(router: Router, k: torch.Tensor, v: torch.Tensor, dropout: float) -> torch.Tensor:
    """What a router says whose convolutions do not see ahead."""
    return router_logits(
        router._replace(conv_weights=tuple(map(without_future, router.conv_weights))), k, v, dropout
    )


def without_future(weight: torch.Tensor) -> torch.Tensor:
    """A router's convolution, [out, in, 1, kernel], with its taps on later tokens set to 0."""
    past = torch.arange(weight.shape[-1], device=weight.device) <= weight.shape[-1] // 2
    return weight * past
