"""What a piece of work costs: multiply-adds, bytes at its peak and for the backward pass, and seconds.

Seconds are this machine's; the others are counted, and the same on every machine (a GPU's peak aside).
"""

from __future__ import annotations

import statistics
import time
import weakref
from collections.abc import Callable, Mapping
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

Work = Callable[[], Any]


def multiply_adds(work: Work) -> int:
    """Of its convolutions and matrix products, which are all but a few percent of a network."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops() // 2


def kept_for_backward(work: Work, model: nn.Module) -> int:
    """The bytes that the work keeps for its gradients, beyond the model's own: what memory grows by with each image.

    What shares memory counts once: a map that one layer made and the next one read.
    """
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    # Held to the end, so that no two of them have the same address.
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        work()
    return sum(storage.nbytes() for storage in kept.values())


def seconds_in_turn(works: Mapping[str, Work], device: torch.device, *, repeats: int) -> dict[str, float]:
    """The median time of each, after one that warms up.

    They take turns, A B A B, so that what else the machine does meets all of them alike.
    """
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(1 + repeats):
        for name, work in works.items():
            seconds[name].append(seconds_of(work, device))
    return {name: statistics.median(each[1:]) for name, each in seconds.items()}


def seconds_of(work: Work, device: torch.device) -> float:
    """Of a piece of work, until the device has finished it."""
    began = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def peak_bytes(work: Work, device: torch.device) -> int:
    """The most bytes that the tensors of a work take at one time, beyond what was there before it.

    A GPU's allocator tells, with what its kernels take for themselves. Elsewhere tensors are counted, operation by
    operation, so that the number is the same on every machine; a process's resident memory would not show what an earlier
    piece of work has left to the allocator.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    with _LiveBytes() as live:
        work()
    return live.peak


class _LiveBytes(TorchDispatchMode):
    """Counts the storages that operations make, each until nothing holds it any more."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known = WeakSet[torch.UntypedStorage]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {id(t.untyped_storage()) for t in _tensors((args, kwargs))}
        made = func(*args, **(kwargs or {}))
        for tensor in _tensors(made):
            storage = tensor.untyped_storage()
            # A view, or what was changed in place, is no new memory.
            if id(storage) not in given and storage not in self._known:
                self._known.add(storage)
                self.now += storage.nbytes()
                weakref.finalize(storage, self._free, storage.nbytes())
        self.peak = max(self.peak, self.now)
        return made

    def _free(self, count: int) -> None:
        self.now -= count


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
