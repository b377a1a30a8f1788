"""What pipelines are made of: a step that places the image, the augmentation that all of them have, and random draws."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, TypeAlias

import torch

from cvtasks.config.schema import Range
from cvtasks.data import colors, transforms
from cvtasks.types import Sample

Transform: TypeAlias = Callable[[Sample], Sample]
Size: TypeAlias = Annotated[int, Range(min=1)]
Probability: TypeAlias = Annotated[float, Range(min=0, max=1)]
Strength: TypeAlias = Annotated[float, Range(min=0, max=1)]
Turn: TypeAlias = Annotated[float, Range(min=0, max=0.5)]
Positive: TypeAlias = Annotated[float, Range(above=0)]
Share: TypeAlias = Annotated[float, Range(above=0, max=1)]
Factor: TypeAlias = Annotated[float, Range(min=1)]
Byte: TypeAlias = Annotated[int, Range(min=0, max=255)]


@dataclass(frozen=True)
class Chain:
    """A class and not a closure, so that worker processes can be sent it."""

    place: Transform
    augment: Transform | None
    largest: tuple[int, int]
    """Height and width of the largest batch; 0 where the data set's images decide"""

    def __call__(self, sample: Sample) -> Sample:
        sample = self.place(sample)
        return self.augment(sample) if self.augment else sample


@dataclass(frozen=True)
class Augment:
    flip_index: Sequence[int]
    flip: float
    vertical_flip: float
    rotate90: float
    color: float
    hue: float
    min_box: float

    def __call__(self, sample: Sample) -> Sample:
        # First, so that nothing is done to the masks of objects that go.
        if self.min_box:
            sample = transforms.drop_small(sample, min_box=self.min_box)
        if chance(self.flip):
            sample = transforms.horizontal_flip(sample, flip_index=self.flip_index)
        if chance(self.vertical_flip):
            sample = transforms.vertical_flip(sample, flip_index=self.flip_index)
        if chance(self.rotate90):
            sample = transforms.rotate90(sample, turns=integer(1, 3))
        if self.color or self.hue:
            brightness, contrast, saturation = (uniform(1 - self.color, 1 + self.color) for _ in range(3))
            sample = colors.adjust_color(
                sample,
                brightness=brightness,
                contrast=contrast,
                saturation=saturation,
                hue=uniform(-self.hue, self.hue),
            )
        return sample


def fit(sample: Sample, *, size: int) -> Sample:
    height, width = transforms.image_size(sample)
    sample = transforms.resize(sample, size=scaled(height, width, size / max(height, width)))
    return sample | {"pad_to": (size, size)}


def cut(length: int, full: int, size: int) -> tuple[int, int, int]:
    """A random crop to `size` of a side resized from `length` to `full`: ends in the source, length."""
    new = min(full, size)
    start = integer(0, full - new)
    low = min(round(start * length / full), length - 1)
    high = max(round((start + new) * length / full), low + 1)
    return low, high, new


def middle(height: int, width: int, down: int, across: int) -> tuple[int, int, int, int]:
    x, y = (width - across) // 2, (height - down) // 2
    return x, y, x + across, y + down


def scaled(height: int, width: int, ratio: float) -> tuple[int, int]:
    return max(1, round(height * ratio)), max(1, round(width * ratio))


def chance(probability: float) -> bool:
    return probability > 0 and torch.rand(()).item() < probability


def uniform(low: float, high: float) -> float:
    return low + (high - low) * torch.rand(()).item()


def factor(largest: float) -> float:
    """From 1 to `largest`, or one over that; either as likely."""
    factor = uniform(1, largest)
    return factor if chance(0.5) else 1 / factor


def integer(low: int, high: int) -> int:
    """Uniform in low..high, both included."""
    return int(torch.randint(low, high + 1, ()).item())
