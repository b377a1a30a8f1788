"""For labels of whole images: padded crops, and random parts that are resized."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from cvtasks.config.schema import Range
from cvtasks.data import transforms
from cvtasks.data.pipelines.parts import (
    Augment,
    Byte,
    Chain,
    Positive,
    Probability,
    Share,
    Size,
    Strength,
    Transform,
    Turn,
    integer,
    middle,
    uniform,
)
from cvtasks.errors import ConfigError
from cvtasks.types import Sample

TRIES = 10
"""Random parts that are tried to find one within the image."""


def pad_crop(
    *,
    train: bool,
    flip_index: Sequence[int] = (),
    size: Size = 32,
    padding: Annotated[int, Range(min=0)] = 4,
    flip: Probability = 0.5,
    vertical_flip: Probability = 0.0,
    rotate90: Probability = 0.0,
    color: Strength = 0.0,
    hue: Turn = 0.0,
    min_box: Positive = 1.0,
    fill: tuple[Byte, Byte, Byte] = (124, 116, 104),
) -> Transform:
    """Every image stretched to size x size; in training with `padding` pixels of `fill` on each side, of which a crop of
    that size is taken: the augmentation for CIFAR of Lee et al. (AISTATS 2015) and He et al. (CVPR 2016).

    Their padding is zero behind the subtraction of the mean; here it is ImageNet's mean, which is nearly that.
    """
    if padding >= size:
        raise ConfigError(f"pipeline.padding={padding}: expected less than pipeline.size, which is {size}")
    place = _PadCrop(size, padding if train else 0, fill)
    augment = Augment(flip_index, flip, vertical_flip, rotate90, color, hue, min_box)
    return Chain(place, augment if train else None, (size, size))


def random_resized_crop(
    *,
    train: bool,
    flip_index: Sequence[int] = (),
    size: Size = 224,
    scale: tuple[Share, Share] = (0.08, 1.0),
    ratio: tuple[Positive, Positive] = (0.75, 4 / 3),
    middle: Share = 0.875,
    flip: Probability = 0.5,
    vertical_flip: Probability = 0.0,
    rotate90: Probability = 0.0,
    color: Strength = 0.0,
    hue: Turn = 0.0,
    min_box: Positive = 1.0,
) -> Transform:
    """A part of the image at size x size, as classifiers learn ImageNet (Szegedy et al., CVPR 2015); torchvision's draws.

    The part has a uniform share of the area, within `scale`, and a width that is a log-uniform factor of its height,
    within `ratio`; ten are tried, else the middle is taken in the nearest of these forms. Evaluation takes the square in
    the middle, with a part `middle` of the shortest side: 224 of 256 pixels. It is for whole images' labels alone.
    """
    for key, (low, high), example in (("scale", scale, "[0.08,1.0]"), ("ratio", ratio, "[0.75,1.3333]")):
        if low > high:
            raise ConfigError(
                f"pipeline.{key}: [{low},{high}]; expected [lowest,highest], for example pipeline.{key}={example}"
            )
    place = _RandomPart(size, scale, ratio) if train else _MiddlePart(size, middle)
    augment = Augment(flip_index, flip, vertical_flip, rotate90, color, hue, min_box)
    return Chain(place, augment if train else None, (size, size))


@dataclass(frozen=True)
class _PadCrop:
    size: int
    padding: int
    fill: tuple[int, int, int]

    def __call__(self, sample: Sample) -> Sample:
        if transforms.image_size(sample) != (self.size, self.size):
            sample = transforms.resize(sample, size=(self.size, self.size))
        if not self.padding:
            return sample
        padded, corner = self.size + 2 * self.padding, (self.padding, self.padding)
        sample = transforms.place(sample, size=(padded, padded), corner=corner, fill=self.fill)
        x, y = (integer(0, 2 * self.padding) for _ in range(2))
        window = (x, y, x + self.size, y + self.size)
        return transforms.crop_resize(sample, window=window, size=(self.size, self.size))


@dataclass(frozen=True)
class _RandomPart:
    size: int
    scale: tuple[float, float]
    ratio: tuple[float, float]

    def __call__(self, sample: Sample) -> Sample:
        window = self.window(*transforms.image_size(sample))
        return transforms.crop_resize(sample, window=window, size=(self.size, self.size))

    def window(self, height: int, width: int) -> tuple[int, int, int, int]:
        low, high = map(math.log, self.ratio)
        for _ in range(TRIES):
            area = height * width * uniform(*self.scale)
            form = math.exp(uniform(low, high))
            across, down = round(math.sqrt(area * form)), round(math.sqrt(area / form))
            if 0 < across <= width and 0 < down <= height:
                y, x = integer(0, height - down), integer(0, width - across)
                return x, y, x + across, y + down
        across = min(width, max(1, round(height * self.ratio[1])))
        down = min(height, max(1, round(width / self.ratio[0])))
        return middle(height, width, down, across)


@dataclass(frozen=True)
class _MiddlePart:
    size: int
    part: float

    def __call__(self, sample: Sample) -> Sample:
        lost = [name for name in (*transforms.INSTANCE_FIELDS, "segmentation", "proposals") if name in sample]
        if lost:
            raise ConfigError(
                f"pipeline.name=random_resized_crop judges the middle of an image, and {lost[0]} are of all of it; choose "
                "another pipeline="
            )
        height, width = transforms.image_size(sample)
        side = max(1, round(self.part * min(height, width)))
        window = middle(height, width, side, side)
        return transforms.crop_resize(sample, window=window, size=(self.size, self.size))
