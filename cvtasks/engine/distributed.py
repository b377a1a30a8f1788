"""Several processes that train one model, one for each GPU, started by torchrun; or this one alone.

torchrun --nproc-per-node 2 -m cvtasks train task=faster_rcnn
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

T = TypeVar("T")

PATIENCE = timedelta(hours=2)
"""The others wait so long for the first process, which alone computes metrics and writes files."""


@dataclass(frozen=True)
class Processes:
    """This process among those that train together. What concerns all of them is no work for one alone."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    """Among the processes of this machine: the number of its GPU"""
    local_world: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the one that writes and talks."""
        return self.rank == 0

    def gather(self, value: T) -> list[T]:
        """Every process's value, by rank; all must ask."""
        if self.world == 1:
            return [value]
        values: list[T | None] = [None] * self.world
        distributed.all_gather_object(values, value)
        return values  # type: ignore[return-value]

    def share(self, value: T) -> T:
        """The first process's value; all must ask."""
        if self.world == 1:
            return value
        values = [value if self.first else None]
        distributed.broadcast_object_list(values)
        return values[0]  # type: ignore[return-value]

    def largest(self, value: int) -> int:
        """The largest of the processes' values; all must ask. A few dozen microseconds, without the GPU."""
        if self.world == 1:
            return value
        tensor = torch.tensor(value)
        distributed.all_reduce(tensor, distributed.ReduceOp.MAX)
        return int(tensor)

    def share_buffers(self, model: nn.Module) -> None:
        """Give every process the first one's running statistics: each saw other images."""
        if self.world > 1:
            for buffer in model.buffers():
                distributed.broadcast(buffer, 0)

    def parallel(self, module: nn.Module) -> nn.Module:
        """The module whose backward pass averages gradients over the processes."""
        return module if self.world == 1 else DistributedDataParallel(module)


ALONE = Processes()


def from_environment() -> Processes:
    """What torchrun says of this process."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return ALONE
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    return Processes(*(int(os.environ[name]) for name in names))


@contextlib.contextmanager
def joined() -> Iterator[Processes]:
    """Join the processes that torchrun has started; without it, be alone."""
    processes = from_environment()
    if processes.world == 1:
        yield processes
        return
    gpus = torch.cuda.is_available()
    if gpus:
        torch.cuda.set_device(processes.local_rank % torch.cuda.device_count())
    # Gloo carries what the host says, so that agreeing on a signal does not wait for a GPU.
    distributed.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo", timeout=PATIENCE)
    try:
        yield processes
    finally:
        distributed.destroy_process_group()
