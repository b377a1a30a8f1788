"""The part of the image about a person."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch

from cvtasks.config.schema import Range
from cvtasks.data import transforms
from cvtasks.data.pipelines.parts import (
    Augment,
    Byte,
    Chain,
    Positive,
    Probability,
    Size,
    Strength,
    Transform,
    Turn,
    uniform,
)
from cvtasks.errors import ConfigError
from cvtasks.types import Sample


def person_crop(
    *,
    train: bool,
    flip_index: Sequence[int] = (),
    size: tuple[Size, Size] = (256, 192),
    padding: Positive = 1.25,
    scale: tuple[Positive, Positive] = (0.7, 1.3),
    rotate: Annotated[float, Range(min=0, max=180)] = 30.0,
    shift: Annotated[float, Range(min=0, max=0.5)] = 0.05,
    flip: Probability = 0.5,
    color: Strength = 0.0,
    hue: Turn = 0.0,
    fill: tuple[Byte, Byte, Byte] = (124, 116, 104),
) -> Transform:
    """The part of the image about a person's box, as poses are learnt (Xiao et al., ECCV 2018): one person a sample.

    The window is the box, widened to the form of `size` (height, width) and then `padding` times as long and wide. Training
    makes it larger by a factor of `scale`, moves it by up to `shift` of its sides, and turns the picture about its centre
    by up to `rotate` degrees either way. Scale, turn and resize are one pass over the pixels. Outside the image is `fill`,
    ImageNet's mean. An image without a box is shown whole.
    """
    if scale[0] > scale[1]:
        raise ConfigError(
            f"pipeline.scale: {list(scale)}; expected [lowest,highest], for example pipeline.scale=[0.7,1.3]"
        )
    place = _PersonCrop(size, padding, scale, math.radians(rotate), shift, fill, train)
    # A person cut by the crop's edge is still the sample's one person: none is dropped.
    augment = Augment(flip_index, flip, 0.0, 0.0, color, hue, min_box=0.0)
    return Chain(place, augment if train else None, size)


@dataclass(frozen=True)
class _PersonCrop:
    size: tuple[int, int]
    padding: float
    scale: tuple[float, float]
    rotate: float
    shift: float
    fill: tuple[int, int, int]
    train: bool

    def __call__(self, sample: Sample) -> Sample:
        lost = [name for name in ("masks", "segmentation", "proposals") if name in sample]
        if lost:
            raise ConfigError(f"pipeline.name=person_crop cannot move {lost[0]}; choose another pipeline=")
        height, width = transforms.image_size(sample)
        box, padding = (0.0, 0.0, float(width), float(height)), 1.0
        if "boxes" in sample:
            if len(sample["boxes"]) != 1:
                raise ConfigError(
                    f"pipeline.name=person_crop takes one person a sample, and image {sample['image_id']} has "
                    f"{len(sample['boxes'])} objects; choose another pipeline="
                )
            box, padding = sample["boxes"][0].tolist(), self.padding
        x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        across = max(box[2] - box[0], (box[3] - box[1]) * self.size[1] / self.size[0]) * padding
        angle = 0.0
        if self.train:
            across *= uniform(*self.scale)
            x += uniform(-self.shift, self.shift) * across
            y += uniform(-self.shift, self.shift) * across * self.size[0] / self.size[1]
            angle = uniform(-self.rotate, self.rotate)
        down = across * self.size[0] / self.size[1]
        moved = transforms.turned_crop(
            sample, centre=(x, y), extent=(across, down), angle=angle, size=self.size, fill=self.fill
        )
        window = torch.tensor([x - across / 2, y - down / 2, x + across / 2, y + down / 2])
        return moved | {"window": window, "pad_to": self.size}
