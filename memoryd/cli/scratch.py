"""`memoryd train scratch`: train a member of the family from random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from memoryd.cli.errors import Refused
from memoryd.cli.output import late_bar


def scratch(
    config: Annotated[Path, typer.Argument(help="The run, a YAML file.")],
    out: Annotated[Path, typer.Option(help="Folder for checkpoints and metrics.jsonl.")],
) -> None:
    """Train a model from scratch; called again, it goes on where it was.

    Under torchrun every process takes its share: torchrun --nproc-per-node=N -m memoryd train
    scratch ...
    """
    from lalte.config import ConfigError
    from lalte.train.config import read_train_config
    from lalte.train.errors import TrainError
    from lalte.train.ranks import joined
    from lalte.train.trainer import Trainer, model_config_of

    try:
        told = read_train_config(config)
        folder = config.resolve().parent
        with joined() as ranks:
            if told.threads is not None:
                import torch

                torch.set_num_threads(told.threads)
            trainer = Trainer(told, model_config_of(told, folder), folder, out, ranks)
            if ranks.rank:
                trainer.train()
                return
            with late_bar("steps", in_bytes=False) as bar:
                trainer.train(on_step=lambda step: bar.update(step, told.steps))
    except (ConfigError, TrainError) as error:
        raise Refused(str(error)) from error
    typer.echo(out)
