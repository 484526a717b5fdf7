"""The processes that train together (torchrun starts them), and how they share a model."""

from __future__ import annotations

import os
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import distributed, nn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from lalte.train.parallel import ParallelModel


@dataclass(frozen=True)
class Ranks:
    """The place of one process. rank: 0 .. world - 1; rank 0 writes the files."""

    rank: int
    world: int
    device: torch.device

    def mean(self, x: torch.Tensor) -> torch.Tensor:
        """Mean over processes, in place."""
        if self.world > 1:
            distributed.all_reduce(x)
            x /= self.world
        return x

    def total(self, x: torch.Tensor) -> torch.Tensor:
        """Sum over processes, in place."""
        if self.world > 1:
            distributed.all_reduce(x)
        return x

    def wait(self) -> None:
        """Until every process is here."""
        if self.world > 1:
            distributed.barrier()


@contextmanager
def joined() -> Iterator[Ranks]:
    """Join the processes that torchrun's environment names; alone without one.

    The environment is read here and nowhere else, as torchrun has no other way to tell.
    """
    world, local = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("LOCAL_RANK", "0"))
    gpu = torch.cuda.is_available()
    device = torch.device("cuda", local) if gpu else torch.device("cpu")
    if world == 1:
        yield Ranks(0, 1, device)
        return
    if gpu:
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if gpu else "gloo")
    try:
        yield Ranks(distributed.get_rank(), world, device)
    finally:
        distributed.destroy_process_group()


def share_out(
    model: ParallelModel, ranks: Ranks, strategy: Literal["ddp", "fsdp2"], dtype: torch.dtype
) -> nn.Module:
    """Wrap the model for its processes; alone it stays what it is.

    dtype: what FSDP2 gathers the fp32 parameters as.
    """
    if ranks.world == 1:
        return model
    if strategy == "ddp":
        return nn.parallel.DistributedDataParallel(model)
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
    for block in model.lm.blocks():
        fully_shard(block, mp_policy=policy)
    fully_shard(model, mp_policy=policy)
    return model


def without_sync(model: nn.Module, *, last: bool) -> AbstractContextManager[object]:
    """Around a micro-batch: gradients go to the other processes with the last one only."""
    if isinstance(model, nn.parallel.DistributedDataParallel):
        return nullcontext() if last else model.no_sync()
    from torch.distributed.fsdp import FSDPModule

    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(last)
    return nullcontext()
