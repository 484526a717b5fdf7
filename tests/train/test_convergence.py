"""A real training whose heads want more than they may keep: the controller brings each to its B."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from lalte.config import LTEConfig
from lalte.train.config import TrainConfig, read_train_config
from lalte.train.ranks import Ranks
from lalte.train.trainer import METRICS_FILE, Trainer, model_config_of

SETTING = Path(__file__).parents[2] / "bench/kept_tokens"
CONFIG = read_train_config(SETTING / "run.yaml")
MODEL = model_config_of(CONFIG, SETTING)
BUDGETS = torch.tensor([x.budgets for x in MODEL.layers if isinstance(x, LTEConfig)]).float()
HELD = 300  # steps at the end


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The bits of such a run, and so its figures, depend on the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def kept_in(run: Path, config: TrainConfig, steps: int) -> torch.Tensor:
    """Train; returns what each step left on average: [steps, LTE layers, KV heads]."""
    print(f"seed {config.seed}")  # noqa: T201
    Trainer(config, MODEL, SETTING, run, Ranks(0, 1, torch.device("cpu"))).train(steps)
    facts = [json.loads(line) for line in (run / METRICS_FILE).read_text().splitlines()]
    return torch.tensor([step["kept"] for step in facts])


def test_each_head_comes_to_keep_what_its_budget_holds_and_stays_there(tmp_path: Path):
    kept = kept_in(tmp_path, CONFIG, CONFIG.steps)
    # All is kept at first.
    assert (kept[0] > 3 * BUDGETS).all()
    mean = kept[-HELD:].mean(dim=0)
    # On the machine of docs/training.md it lies in the band, [0.95 B, B]; another one's rounding
    # makes another run of it, as another seed does.
    assert ((mean >= 0.9 * BUDGETS) & (mean <= 1.05 * BUDGETS)).all(), mean
    # Single steps are draws of 16 documents and waver about that mean.
    assert ((kept[-HELD:] > 0.65 * BUDGETS) & (kept[-HELD:] < 1.35 * BUDGETS)).all()


def test_without_a_price_heads_keep_more_than_their_budgets(tmp_path: Path):
    free = CONFIG.penalty.model_copy(update={"floor": 1e-12, "ceiling": 1e-12})
    kept = kept_in(tmp_path, CONFIG.model_copy(update={"penalty": free}), 250)
    assert (kept[-1] > 1.5 * BUDGETS).all(), kept[-1]
