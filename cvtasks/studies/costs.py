"""What a piece of work costs: multiply-adds, bytes kept for the backward pass, and seconds.

The first two are counted and the same on every machine; seconds are this machine's.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
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
            began = time.perf_counter()
            work()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(each[1:]) for name, each in seconds.items()}
