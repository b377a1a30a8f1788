"""A random scale and a crop of a fixed size: large-scale jittering, and semantic segmentation's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import torch

from cvtasks.config.schema import Range
from cvtasks.data import transforms
from cvtasks.data.pipelines.parts import (
    Augment,
    Chain,
    Positive,
    Probability,
    Size,
    Strength,
    Transform,
    Turn,
    chance,
    cut,
    fit,
    scaled,
    uniform,
)
from cvtasks.errors import ConfigError
from cvtasks.types import Sample

CROPS = 10
"""Crops that are tried to find one that is not all one class."""


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
    place = partial(_jitter, size=size, scale=(low, high)) if train else partial(fit, size=size)
    augment = Augment(flip_index, flip, vertical_flip, rotate90, color, hue, min_box)
    return Chain(place, augment if train else None, (size, size))


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
        return Chain(full, None, (max_size, max_size) if max_size else (0, 0))
    place = _ScaleCrop(full, (height, width), (low, high), max_class_share, elastic, elastic_sigma)
    augment = Augment(flip_index, flip, vertical_flip, rotate90, color, hue, min_box)
    return Chain(place, augment, (height, width))


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
        size = scaled(height, width, self.ratio(height, width))
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
        if chance(self.elastic):
            sample = transforms.elastic(sample, displacement=self.elastic_sigma * torch.randn(2, 3, 3))
        height, width = transforms.image_size(sample)
        ratio = self.full.ratio(height, width) * uniform(*self.scale)
        full_height, full_width = scaled(height, width, ratio)
        for _ in range(CROPS):
            y1, y2, new_height = cut(height, full_height, self.size[0])
            x1, x2, new_width = cut(width, full_width, self.size[1])
            if "segmentation" not in sample or self.max_class_share == 1:
                break
            if transforms.class_share(sample["segmentation"][y1:y2, x1:x2]) < self.max_class_share:
                break
        sample = transforms.crop_resize(sample, window=(x1, y1, x2, y2), size=(new_height, new_width))
        return sample | {"pad_to": self.size}


def _jitter(sample: Sample, *, size: int, scale: tuple[float, float]) -> Sample:
    height, width = transforms.image_size(sample)
    full_height, full_width = scaled(height, width, size / max(height, width) * uniform(*scale))
    y1, y2, new_height = cut(height, full_height, size)
    x1, x2, new_width = cut(width, full_width, size)
    sample = transforms.crop_resize(sample, window=(x1, y1, x2, y2), size=(new_height, new_width))
    return sample | {"pad_to": (size, size)}
