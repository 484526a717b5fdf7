"""Training: the loss falls, heads come to their budgets, and a run that stopped goes on exactly."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lalte.presets import tiny_lalte
from lalte.train.checkpoint import checkpoints
from lalte.train.config import TrainConfig, read_train_config
from lalte.train.errors import TrainError
from lalte.train.ranks import Ranks
from lalte.train.tokens import write_token_file
from lalte.train.trainer import METRICS_FILE, Trainer

ALONE = Ranks(0, 1, torch.device("cpu"))
MODEL = tiny_lalte(("gdn", "lte"), vocab_size=64, window=20, budget=10)


def run_config(**changes: object) -> TrainConfig:
    return TrainConfig.model_validate(
        {
            "seed": 1,
            "model": "here.json",
            "data": {"kind": "needle", "pairs": 4},
            "length": 64,
            "steps": 6,
            "batch": 8,
            "micro_batch": 4,
            "precision": "float32",
            "optimiser": {"learning_rate": 3e-3, "warmup_steps": 2},
            "penalty": {"dropout": 0.1, "update_steps": 2, "floor": 1e-3},
            "checkpoint_steps": 3,
        }
        | changes
    )


def train(run: Path, config: TrainConfig, until: int | None = None) -> Trainer:
    trainer = Trainer(config, MODEL, run, run, ALONE)
    trainer.train(until)
    return trainer


def weights(run: Path) -> dict[str, torch.Tensor]:
    newest = checkpoints(run)[-1]
    return load_file(newest / "model.safetensors") | load_file(newest / "optimiser.safetensors")


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], atol: float):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=atol, msg=name)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_run_that_stopped_goes_on_with_the_same_bits(tmp_path: Path, precision: str):
    config = run_config(precision=precision)
    train(tmp_path / "whole", config)
    train(tmp_path / "parts", config, until=2)
    train(tmp_path / "parts", config, until=5)
    train(tmp_path / "parts", config)
    assert_same(weights(tmp_path / "parts"), weights(tmp_path / "whole"), atol=0)

    def losses(run: Path) -> list[float]:
        lines = (run / METRICS_FILE).read_text().splitlines()
        return [json.loads(line)["loss"] for line in lines]

    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")


def test_what_was_accumulated_is_what_one_large_batch_gives(tmp_path: Path):
    still = {"penalty": {"dropout": 0, "update_steps": 2, "floor": 1e-3}}
    train(tmp_path / "large", run_config(micro_batch=8, **still))
    train(tmp_path / "small", run_config(micro_batch=2, **still))
    assert_same(weights(tmp_path / "small"), weights(tmp_path / "large"), atol=1e-5)


def test_a_run_does_not_go_on_as_another(tmp_path: Path):
    train(tmp_path, run_config(), until=3)
    with pytest.raises(TrainError, match=r"seed 1.*says 2"):
        train(tmp_path, run_config(seed=2))
    # Where and how fast it runs may change.
    train(tmp_path, run_config(micro_batch=2))


def test_a_damaged_checkpoint_is_refused(tmp_path: Path):
    train(tmp_path, run_config(), until=3)
    path = checkpoints(tmp_path)[-1] / "optimiser.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(TrainError, match="cannot be read"):
        train(tmp_path, run_config())


def test_only_the_newest_two_checkpoints_are_kept(tmp_path: Path):
    train(tmp_path, run_config(steps=4, checkpoint_steps=1))
    assert [path.name for path in checkpoints(tmp_path)] == ["step-00000003", "step-00000004"]


def test_the_loss_falls_on_text(tmp_path: Path):
    seed = random.randrange(1000)
    print(f"seed {seed}")  # noqa: T201
    letters = random.Random(seed).choices("abcdefgh", k=40)
    write_token_file(
        tmp_path / "text.tokens",
        ["".join(letters)] * 100,
        lambda text: [ord(letter) - 96 for letter in text],
        vocab_size=64,
        end_id=0,
    )
    config = run_config(
        seed=seed, steps=60, data={"kind": "tokens", "files": ["text.tokens"]}, checkpoint_steps=60
    )
    train(tmp_path, config)
    facts = [json.loads(line) for line in (tmp_path / METRICS_FILE).read_text().splitlines()]
    assert facts[-1]["loss"] < 0.5 * facts[0]["loss"]
    assert facts[-1]["tokens"] == 60 * 8 * 64


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_processes_train_what_one_does(tmp_path: Path, strategy: str):
    body = run_config(
        strategy=strategy, micro_batch=2, penalty={"dropout": 0, "update_steps": 2, "floor": 1e-3}
    ).model_dump(mode="json")
    train(tmp_path / "one", TrainConfig.model_validate(body))
    (tmp_path / "here.json").write_text(MODEL.to_json())
    (tmp_path / "run.yaml").write_text(json.dumps(body))  # JSON is YAML
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["-m", "memoryd", "train", "scratch", str(tmp_path / "run.yaml")]
    ended = subprocess.run(
        [*command, "--out", str(tmp_path / "two")],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert_same(weights(tmp_path / "two"), weights(tmp_path / "one"), atol=1e-5)


def test_tensorboard_gets_the_figures(tmp_path: Path):
    train(tmp_path, run_config(steps=1, tensorboard=True))
    assert list(tmp_path.glob("events.out.tfevents*"))


def test_a_file_that_does_not_fit_is_refused_setting_by_setting(tmp_path: Path):
    path = tmp_path / "run.yaml"
    path.write_text("model: here.json\nlength: -1\nsteeps: 3\ndata: {kind: mqar, pairs: 2}\n")
    with pytest.raises(TrainError, match=r"length.*steeps"):
        read_train_config(path)
    with pytest.raises(TrainError, match="cannot be read"):
        read_train_config(tmp_path / "none.yaml")
    with pytest.raises(TrainError, match="3 sequences do not share out"):
        Trainer(run_config(batch=3), MODEL, tmp_path, tmp_path, ALONE)
