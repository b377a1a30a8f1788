"""The augmentation of detectors that look once: YOLO's and SSD's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated

from cvtasks.config.schema import Range
from cvtasks.data import colors, patches, transforms
from cvtasks.data.pipelines.parts import (
    Augment,
    Byte,
    Chain,
    Factor,
    Positive,
    Probability,
    Share,
    Size,
    Strength,
    Transform,
    Turn,
    chance,
    factor,
    uniform,
)
from cvtasks.errors import ConfigError
from cvtasks.types import Sample

EXACTLY = {"divisor": 1}
"""For collate: SSD's default boxes are parts of the image, and its maps would have other sizes with padding."""


def edge_jitter(
    *,
    train: bool,
    flip_index: Sequence[int] = (),
    size: Size = 448,
    jitter: Annotated[float, Range(min=0, below=0.5)] = 0.2,
    exposure: Factor = 1.5,
    saturation: Factor = 1.5,
    flip: Probability = 0.5,
    vertical_flip: Probability = 0.0,
    rotate90: Probability = 0.0,
    color: Strength = 0.0,
    hue: Turn = 0.0,
    min_box: Positive = 1.0,
) -> Transform:
    """The first YOLO's (Redmon et al., CVPR 2016, section 2.2): random scale and place, and exposure and saturation.

    Each of the image's four edges moves in or out by up to `jitter` of its side, and what is between them is stretched to
    size x size, as in darknet; beyond the image its edge is repeated. Value and saturation in HSV change by factors from 1
    to `exposure` and `saturation`, or by one over them.
    """
    resize = partial(transforms.resize, size=(size, size))
    place = _EdgeJitter(size, jitter, exposure, saturation) if train else resize
    augment = Augment(flip_index, flip, vertical_flip, rotate90, color, hue, min_box)
    return Chain(place, augment if train else None, (size, size))


def ssd(
    *,
    train: bool,
    flip_index: Sequence[int] = (),
    size: Size = 300,
    zoom_out: Probability = 0.5,
    zoom_out_ratio: Factor = 4.0,
    fill: tuple[Byte, Byte, Byte] = (123, 117, 104),
    min_ious: Sequence[Probability | None] = (None, 0.0, 0.1, 0.3, 0.5, 0.7, 0.9),
    patch_scale: tuple[Share, Share] = (0.3, 1.0),
    patch_aspect: tuple[Positive, Positive] = (0.5, 2.0),
    distort: Probability = 0.5,
    brightness: Strength = 0.125,
    contrast: Strength = 0.5,
    saturation: Strength = 0.5,
    hue: Turn = 0.05,
    flip: Probability = 0.5,
    vertical_flip: Probability = 0.0,
    rotate90: Probability = 0.0,
    min_box: Positive = 1.0,
) -> Transform:
    """SSD's (Liu et al., ECCV 2016, sections 2.2 and 3.6): the image on a larger ground, a patch of that, other colours.

    See `patches`. Objects whose middle the patch leaves out go. Brightness, contrast, saturation and hue change with a
    probability of `distort` each. Every image is stretched to size x size, and batches have just that size.

    Geometry comes before pixels: they are resized once, the part that is seen alone, and what follows is done to few.
    Deviations: colours change in one affine map, clipped once (`colors.adjust_color`), as contrast in the paper's code,
    which multiplies the values, does anyway.
    """
    for key, (low, high) in (("patch_scale", patch_scale), ("patch_aspect", patch_aspect)):
        if low > high:
            raise ConfigError(f"pipeline.{key}: [{low},{high}]; expected [lowest,highest]")
    if not min_ious:
        raise ConfigError(
            "pipeline.min_ious: the list is empty; type pipeline.min_ious=[null] for whole images"
        )
    place: Transform = partial(_exact, size=size)
    if train:
        patch = patches.Patch(tuple(min_ious), patch_scale, patch_aspect)
        colors = _Distortion(distort, brightness, contrast, saturation, hue)
        place = _Ssd(size, zoom_out, zoom_out_ratio, fill, patch, colors)
    augment = Augment(flip_index, flip, vertical_flip, rotate90, 0.0, 0.0, min_box)
    return Chain(place, augment if train else None, (size, size))


@dataclass(frozen=True)
class _EdgeJitter:
    size: int
    jitter: float
    exposure: float
    saturation: float

    def __call__(self, sample: Sample) -> Sample:
        height, width = transforms.image_size(sample)
        x1, x2 = (round(width * self.moved(edge)) for edge in (0, 1))
        y1, y2 = (round(height * self.moved(edge)) for edge in (0, 1))
        window = (x1, y1, max(x2, x1 + 1), max(y2, y1 + 1))
        sample = transforms.reframe(sample, window=window, size=(self.size, self.size))
        if self.exposure > 1 or self.saturation > 1:
            saturation, exposure = factor(self.saturation), factor(self.exposure)
            sample = colors.adjust_hsv(sample, saturation=saturation, exposure=exposure)
        return sample

    def moved(self, edge: int) -> float:
        return edge + uniform(-self.jitter, self.jitter)


@dataclass(frozen=True)
class _Distortion:
    chance: float
    brightness: float
    contrast: float
    saturation: float
    hue: float

    def __call__(self, sample: Sample) -> Sample:
        offset, contrast, saturation, hue = (
            uniform(-most, most) if chance(self.chance) else 0.0
            for most in (255 * self.brightness, self.contrast, self.saturation, self.hue)
        )
        if not (offset or contrast or saturation or hue):
            return sample
        factor = 1 + contrast  # of all values, as in the paper's code, and not around their mean
        return colors.adjust_color(
            sample, brightness=factor, saturation=1 + saturation, hue=hue, offset=factor * offset
        )


@dataclass(frozen=True)
class _Ssd:
    size: int
    zoom_out: float
    ratio: float
    fill: tuple[int, int, int]
    patch: patches.Patch
    colors: _Distortion

    def __call__(self, sample: Sample) -> Sample:
        height, width = transforms.image_size(sample)
        window = (0, 0, width, height)
        if chance(self.zoom_out):
            window = patches.larger_ground(height, width, most=self.ratio)
        window = self.patch(window, patches.sought_boxes(sample))
        sample = transforms.drop_outside(sample, window=window)
        size = (self.size, self.size)
        sample = transforms.reframe(sample, window=window, size=size, fill=self.fill, change=self.colors)
        return sample | EXACTLY | {"pad_to": size}


def _exact(sample: Sample, *, size: int) -> Sample:
    return transforms.resize(sample, size=(size, size)) | EXACTLY | {"pad_to": (size, size)}
