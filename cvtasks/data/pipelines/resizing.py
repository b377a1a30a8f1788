"""The whole image at one size, or with its shortest side at one."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

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
    fit,
    integer,
    scaled,
)
from cvtasks.errors import ConfigError
from cvtasks.types import Sample


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
    place = partial(fit, size=size) if keep_aspect else partial(transforms.resize, size=(size, size))
    augment = Augment(flip_index, flip, vertical_flip, rotate90, color, hue, min_box)
    return Chain(place, augment if train else None, (size, size))


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
    augment = Augment(flip_index, flip, vertical_flip, rotate90, color, hue, min_box)
    # A batch of an upright and a lying image is as high as the one and as wide as the other.
    return Chain(place, augment if train else None, (max_size, max_size))


def _shortest(sample: Sample, *, sizes: Sequence[int], max_size: int) -> Sample:
    height, width = transforms.image_size(sample)
    size = sizes[integer(0, len(sizes) - 1)] if len(sizes) > 1 else sizes[0]
    ratio = min(size / min(height, width), max_size / max(height, width))
    return transforms.resize(sample, size=scaled(height, width, ratio))
