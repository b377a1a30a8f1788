"""Learning-rate schedules: pure functions of the step, after a linear warm-up.

Each function returns a scheduler whose `step()` follows every optimizer step. Times are fractions of the run, so that a
schedule keeps its shape when the batch size or the length of a run changes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Annotated

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from cvtasks.config.schema import Range

WarmupSteps = Annotated[int, Range(min=0)]
Fraction = Annotated[float, Range(min=0, max=1)]


def multi_step(
    optimizer: Optimizer,
    *,
    max_steps: int,
    milestones: Sequence[Fraction] = (2 / 3, 8 / 9),
    gamma: Fraction = 0.1,
    warmup_steps: WarmupSteps = 500,
    warmup_factor: Fraction = 0.001,
) -> LambdaLR:
    """Times `gamma` at each milestone, a fraction of the run (detectron2's and torchvision's reference schedule)."""
    steps = [round(m * max_steps) for m in milestones]
    return _with_warmup(
        optimizer, lambda step: gamma ** sum(step >= s for s in steps), max_steps, warmup_steps, warmup_factor
    )


def cosine(
    optimizer: Optimizer,
    *,
    max_steps: int,
    final_factor: Fraction = 0.0,
    warmup_steps: WarmupSteps = 500,
    warmup_factor: Fraction = 0.001,
) -> LambdaLR:
    """Half a cosine from 1 to `final_factor` (Loshchilov & Hutter, ICLR 2017, without restarts)."""

    def factor(step: int) -> float:
        falling = 0.5 * (1 + math.cos(math.pi * min(step / max_steps, 1.0)))
        return final_factor + (1 - final_factor) * falling

    return _with_warmup(optimizer, factor, max_steps, warmup_steps, warmup_factor)


def polynomial(
    optimizer: Optimizer,
    *,
    max_steps: int,
    power: Annotated[float, Range(above=0)] = 0.9,
    warmup_steps: WarmupSteps = 0,
    warmup_factor: Fraction = 0.001,
) -> LambdaLR:
    """`(1 - step / max_steps) ** power`: "poly" of segmentation papers (Chen et al., ICLR 2015)."""
    return _with_warmup(
        optimizer,
        lambda step: max(0.0, 1 - step / max_steps) ** power,
        max_steps,
        warmup_steps,
        warmup_factor,
    )


def constant(
    optimizer: Optimizer,
    *,
    max_steps: int,
    warmup_steps: WarmupSteps = 0,
    warmup_factor: Fraction = 0.001,
) -> LambdaLR:
    """The learning rate as it is."""
    return _with_warmup(optimizer, lambda step: 1.0, max_steps, warmup_steps, warmup_factor)


def _with_warmup(
    optimizer: Optimizer, factor: Callable[[int], float], max_steps: int, warmup_steps: int, start: float
) -> LambdaLR:
    # A run shorter than its warm-up would never leave it; half of the run is the most it may take.
    warmup = min(warmup_steps, max_steps // 2)

    def scaled(step: int) -> float:
        rising = start + (1 - start) * step / warmup if step < warmup else 1.0
        return rising * factor(step)

    return LambdaLR(optimizer, scaled)
