"""From a reader's Sample to the one that is batched. Each file in conf/pipeline names a function here.

Each is `(*, train, flip_index, <parameters>) -> Callable[[Sample], Sample]`; `flip_index` comes from the data
set's classes. In evaluation only the resize happens. Random numbers come from torch's global generator,
which the loader seeds for each image. Images stay uint8, and nothing is padded here: a pipeline of constant
shape notes `pad_to` (height, width) in the Sample, and `collate` pads right and below.

Behind its resize every pipeline but `person_crop` drops objects whose box has a side below `min_box` pixels. All have
the same augmentation: `flip` and `vertical_flip` (probabilities), `rotate90` (probability of one, two or three quarter
turns; 0.75 makes all four directions equally likely), `color` (brightness, contrast and saturation by factors
from 1 - color to 1 + color), `hue` (colours turned by -hue to hue of the circle).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, TypeAlias

import torch

from cvtasks.config.schema import Range
from cvtasks.data import transforms
from cvtasks.errors import ConfigError
from cvtasks.types import Sample

Transform: TypeAlias = Callable[[Sample], Sample]
Size: TypeAlias = Annotated[int, Range(min=1)]
Probability: TypeAlias = Annotated[float, Range(min=0, max=1)]
Strength: TypeAlias = Annotated[float, Range(min=0, max=1)]
Turn: TypeAlias = Annotated[float, Range(min=0, max=0.5)]
Positive: TypeAlias = Annotated[float, Range(above=0)]
Byte: TypeAlias = Annotated[int, Range(min=0, max=255)]

CROPS = 10
"""Crops that are tried to find one that is not all one class."""


def fixed(
    *,
    train: bool,
    flip_index: Sequence[int] = (),
    size: Size = 320,
    keep_aspect: bool = False,
    flip: Probability = 0.5,
    vertical_flip: Probability = 0.0,
    rotate90: Probability = 0.0,
    color: Strength = 0.0,
    hue: Turn = 0.0,
    min_box: Positive = 1.0,
) -> Transform:
    """Every image at size x size: stretched to it, or (`keep_aspect`) fitted into it and padded."""
    place = partial(_fit, size=size) if keep_aspect else partial(transforms.resize, size=(size, size))
    augment = _Augment(flip_index, flip, vertical_flip, rotate90, color, hue, min_box)
    return _Chain(place, augment if train else None, (size, size))


def shortest_edge(
    *,
    train: bool,
    flip_index: Sequence[int] = (),
    size: Size | Sequence[Size] = 800,
    max_size: Size = 1333,
    flip: Probability = 0.5,
    vertical_flip: Probability = 0.0,
    rotate90: Probability = 0.0,
    color: Strength = 0.0,
    hue: Turn = 0.0,
    min_box: Positive = 1.0,
) -> Transform:
    """The shortest side at `size`, the longest at most `max_size`, as in Fast and Faster R-CNN.

    Of several sizes, training draws one for each image and evaluation takes the largest.
    """
    sizes = (size,) if isinstance(size, int) else tuple(size)
    if not sizes:
        raise ConfigError(
            "pipeline.size: the list is empty; expected at least one, for example pipeline.size=[640,800]"
        )
    place = partial(_shortest, sizes=sizes if train else (max(sizes),), max_size=max_size)
    augment = _Augment(flip_index, flip, vertical_flip, rotate90, color, hue, min_box)
    # A batch of an upright and a lying image is as high as the one and as wide as the other.
    return _Chain(place, augment if train else None, (max_size, max_size))


def scale_jitter(
    *,
    train: bool,
    flip_index: Sequence[int] = (),
    size: Size = 1024,
    scale: tuple[Positive, Positive] = (0.1, 2.0),
    flip: Probability = 0.5,
    vertical_flip: Probability = 0.0,
    rotate90: Probability = 0.0,
    color: Strength = 0.0,
    hue: Turn = 0.0,
    min_box: Positive = 1.0,
) -> Transform:
    """Large-scale jittering (Ghiasi et al., CVPR 2021): a random scale, then crop or pad to size x size.

    At scale 1 the longest side is `size`, as in evaluation; `scale` bounds the uniform draw.
    Deviation: the crop comes before the resize, in whole pixels of the file's image, so the scale of either
    axis differs from the drawn one by up to a pixel over the crop's length.
    """
    low, high = scale
    if low > high:
        raise ConfigError(
            f"pipeline.scale: {list(scale)}; expected [lowest,highest], for example pipeline.scale=[0.1,2.0]"
        )
    place = partial(_jitter, size=size, scale=(low, high)) if train else partial(_fit, size=size)
    augment = _Augment(flip_index, flip, vertical_flip, rotate90, color, hue, min_box)
    return _Chain(place, augment if train else None, (size, size))


def scale_crop(
    *,
    train: bool,
    flip_index: Sequence[int] = (),
    size: Size | tuple[Size, Size] = 512,
    scale: tuple[Positive, Positive] = (0.5, 2.0),
    image_size: Size | None = None,
    max_size: Size | None = None,
    max_class_share: Annotated[float, Range(above=0, max=1)] = 0.75,
    elastic: Probability = 0.0,
    elastic_sigma: Positive = 10.0,
    flip: Probability = 0.5,
    vertical_flip: Probability = 0.0,
    rotate90: Probability = 0.0,
    color: Strength = 0.0,
    hue: Turn = 0.0,
    min_box: Positive = 1.0,
) -> Transform:
    """A random scale, then a crop of a fixed size, as semantic segmentation is trained; evaluation on whole images.

    At scale 1, as in evaluation, an image is as large as in its file, or its shortest side is `image_size`; but the
    longest at most `max_size`. What is smaller than the crop is padded. Of ten crops the first is taken in which no
    class has `max_class_share` of the pixels that are not void, else the last (mmsegmentation's `cat_max_ratio`).

    size: of the crop, or its height and width.
    elastic: probability of U-Net's deformation of the whole image, before anything else: random displacements with a
        standard deviation of `elastic_sigma` pixels on a grid of 3 x 3 points. For label maps and masks only.

    Deviation: as in `scale_jitter`, the crop comes before the resize, in whole pixels of the file's image.
    """
    height, width = (size, size) if isinstance(size, int) else size
    low, high = scale
    if low > high:
        raise ConfigError(
            f"pipeline.scale: {list(scale)}; expected [lowest,highest], for example pipeline.scale=[0.5,2.0]"
        )
    if rotate90 > 0 and height != width:
        raise ConfigError(
            f"pipeline.rotate90: crops of pipeline.size=[{height},{width}] would lie and stand; give one number"
        )
    full = _Full(image_size, max_size)
    if not train:
        return _Chain(full, None, (max_size, max_size) if max_size else (0, 0))
    place = _ScaleCrop(full, (height, width), (low, high), max_class_share, elastic, elastic_sigma)
    augment = _Augment(flip_index, flip, vertical_flip, rotate90, color, hue, min_box)
    return _Chain(place, augment, (height, width))


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
    augment = _Augment(flip_index, flip, 0.0, 0.0, color, hue, min_box=0.0)
    return _Chain(place, augment if train else None, size)


@dataclass(frozen=True)
class _Chain:
    """A class and not a closure, so that worker processes can be sent it."""

    place: Transform
    augment: Transform | None
    largest: tuple[int, int]
    """Height and width of the largest batch; 0 where the data set's images decide"""

    def __call__(self, sample: Sample) -> Sample:
        sample = self.place(sample)
        return self.augment(sample) if self.augment else sample


@dataclass(frozen=True)
class _Augment:
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
        if _chance(self.flip):
            sample = transforms.horizontal_flip(sample, flip_index=self.flip_index)
        if _chance(self.vertical_flip):
            sample = transforms.vertical_flip(sample, flip_index=self.flip_index)
        if _chance(self.rotate90):
            sample = transforms.rotate90(sample, turns=_integer(1, 3))
        if self.color or self.hue:
            brightness, contrast, saturation = (_uniform(1 - self.color, 1 + self.color) for _ in range(3))
            sample = transforms.adjust_color(
                sample,
                brightness=brightness,
                contrast=contrast,
                saturation=saturation,
                hue=_uniform(-self.hue, self.hue),
            )
        return sample


@dataclass(frozen=True)
class _Full:
    """The whole image at the size of evaluation."""

    image_size: int | None
    max_size: int | None

    def ratio(self, height: int, width: int) -> float:
        ratio = self.image_size / min(height, width) if self.image_size else 1.0
        return min(ratio, self.max_size / max(height, width)) if self.max_size else ratio

    def __call__(self, sample: Sample) -> Sample:
        height, width = transforms.image_size(sample)
        size = _scaled(height, width, self.ratio(height, width))
        return transforms.resize(sample, size=size) if size != (height, width) else sample


@dataclass(frozen=True)
class _ScaleCrop:
    full: _Full
    size: tuple[int, int]
    scale: tuple[float, float]
    max_class_share: float
    elastic: float
    elastic_sigma: float

    def __call__(self, sample: Sample) -> Sample:
        if _chance(self.elastic):
            sample = transforms.elastic(sample, displacement=self.elastic_sigma * torch.randn(2, 3, 3))
        height, width = transforms.image_size(sample)
        ratio = self.full.ratio(height, width) * _uniform(*self.scale)
        full_height, full_width = _scaled(height, width, ratio)
        for _ in range(CROPS):
            y1, y2, new_height = _cut(height, full_height, self.size[0])
            x1, x2, new_width = _cut(width, full_width, self.size[1])
            if "segmentation" not in sample or self.max_class_share == 1:
                break
            if transforms.class_share(sample["segmentation"][y1:y2, x1:x2]) < self.max_class_share:
                break
        sample = transforms.crop_resize(sample, window=(x1, y1, x2, y2), size=(new_height, new_width))
        return sample | {"pad_to": self.size}


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
            across *= _uniform(*self.scale)
            x += _uniform(-self.shift, self.shift) * across
            y += _uniform(-self.shift, self.shift) * across * self.size[0] / self.size[1]
            angle = _uniform(-self.rotate, self.rotate)
        down = across * self.size[0] / self.size[1]
        moved = transforms.turned_crop(
            sample, centre=(x, y), extent=(across, down), angle=angle, size=self.size, fill=self.fill
        )
        window = torch.tensor([x - across / 2, y - down / 2, x + across / 2, y + down / 2])
        return moved | {"window": window, "pad_to": self.size}


def _fit(sample: Sample, *, size: int) -> Sample:
    height, width = transforms.image_size(sample)
    sample = transforms.resize(sample, size=_scaled(height, width, size / max(height, width)))
    return sample | {"pad_to": (size, size)}


def _shortest(sample: Sample, *, sizes: Sequence[int], max_size: int) -> Sample:
    height, width = transforms.image_size(sample)
    size = sizes[_integer(0, len(sizes) - 1)] if len(sizes) > 1 else sizes[0]
    ratio = min(size / min(height, width), max_size / max(height, width))
    return transforms.resize(sample, size=_scaled(height, width, ratio))


def _jitter(sample: Sample, *, size: int, scale: tuple[float, float]) -> Sample:
    height, width = transforms.image_size(sample)
    full_height, full_width = _scaled(height, width, size / max(height, width) * _uniform(*scale))
    y1, y2, new_height = _cut(height, full_height, size)
    x1, x2, new_width = _cut(width, full_width, size)
    sample = transforms.crop_resize(sample, window=(x1, y1, x2, y2), size=(new_height, new_width))
    return sample | {"pad_to": (size, size)}


def _cut(length: int, full: int, size: int) -> tuple[int, int, int]:
    """A random crop to `size` of a side resized from `length` to `full`: ends in the source, length."""
    new = min(full, size)
    start = _integer(0, full - new)
    low = min(round(start * length / full), length - 1)
    high = max(round((start + new) * length / full), low + 1)
    return low, high, new


def _scaled(height: int, width: int, ratio: float) -> tuple[int, int]:
    return max(1, round(height * ratio)), max(1, round(width * ratio))


def _chance(probability: float) -> bool:
    return probability > 0 and torch.rand(()).item() < probability


def _uniform(low: float, high: float) -> float:
    return low + (high - low) * torch.rand(()).item()


def _integer(low: int, high: int) -> int:
    """Uniform in low..high, both included."""
    return int(torch.randint(low, high + 1, ()).item())
