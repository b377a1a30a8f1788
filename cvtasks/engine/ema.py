"""An exponential moving average of the weights, which is what is evaluated, and often a point of AP better.

Polyak and Juditsky, 1992; the decay grows from 0.1 with the steps, min(decay, (1 + n) / (10 + n)), as in TensorFlow's
ExponentialMovingAverage, so that the average soon forgets where it began. Running statistics are averaged, too; whole
numbers are copied.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

_WARMUP = 10


class Ema:
    """The average of a model's weights, in float32 beside it."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self._live: dict[str, Tensor] = dict(model.state_dict(keep_vars=True))
        self.average = {name: tensor.detach().clone() for name, tensor in self._live.items()}
        self._floats = [name for name, tensor in self._live.items() if tensor.is_floating_point()]
        self._others = [name for name, tensor in self._live.items() if not tensor.is_floating_point()]

    @torch.no_grad()
    def update(self, steps: int) -> None:
        """Move towards the model's weights after step number `steps`, counted from 1."""
        decay = min(self.decay, (1 + steps) / (_WARMUP + steps))
        average, live = ([of[name] for name in self._floats] for of in (self.average, self._live))
        torch._foreach_lerp_(average, live, 1 - decay)
        for name in self._others:
            self.average[name].copy_(self._live[name])

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the model has the average for its weights; nothing is copied."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def load(self, average: Mapping[str, Tensor]) -> None:
        """Take over an average that was saved."""
        for name, tensor in self.average.items():
            tensor.copy_(average[name])

    def _swap(self) -> None:
        for name, tensor in self._live.items():
            tensor.data, self.average[name] = self.average[name], tensor.data
