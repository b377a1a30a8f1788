"""Hierarchical grouping of regions by their likeness (Uijlings et al., IJCV 2013, sections 3.1 and 3.2.2).

The two most alike neighbours become one region, again and again, until one is left. Of R regions that makes 2R - 1, each of
which may be an object. Letters: H x W pixels, C channels, R regions, P pairs, D bins.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

SIMILARITIES = ("color", "texture", "size", "fill")
COLOR_BINS = 25
TEXTURE_BINS = 10
TEXTURE_DIRECTIONS = 8
_STEEPEST = 0.1
"""Of channels from 0 to 1: derivatives from here on share the last bin of texture"""


@dataclass(frozen=True)
class Regions:
    """What grouping has to know of R regions. Histograms are counts, so that those of a union are sums."""

    pixels: np.ndarray
    """int64 [R]"""
    boxes: np.ndarray
    """int64 [R, 4]"""
    colors: np.ndarray
    """int64 [R, D]: a row adds up to C times the region's pixels"""
    textures: np.ndarray
    """int64 [R, D]: a row adds up to 8 C times the region's pixels"""

    @classmethod
    def of(cls, labels: np.ndarray, colors: np.ndarray, textures: np.ndarray) -> Regions:
        """The regions of a label map [H, W], 0..R-1, by the bins of color and texture of its pixels, [H, W, ...]."""
        boxes = [(x.start, y.start, x.stop, y.stop) for y, x in ndimage.find_objects(labels + 1)]
        return cls(
            np.bincount(labels.ravel()),
            np.array(boxes, dtype=np.int64),
            _histograms(labels, colors, COLOR_BINS),
            _histograms(labels, textures, TEXTURE_BINS),
        )

    def with_room(self, rows: int) -> Regions:
        """A copy with so many empty rows more."""
        parts = (self.pixels, self.boxes, self.colors, self.textures)
        return Regions(*(np.concatenate([part, np.zeros_like(part[:1]).repeat(rows, 0)]) for part in parts))

    def join(self, one: int, other: int, new: int) -> None:
        """Row `new` becomes the union of two others."""
        for counts in (self.pixels, self.colors, self.textures):
            counts[new] = counts[one] + counts[other]
        self.boxes[new] = _around(self.boxes[one], self.boxes[other])


def color_bins(channels: np.ndarray) -> np.ndarray:
    """The bin, 0 to 24, of each value of [H, W, C] from 0 to 1."""
    return np.minimum((channels * COLOR_BINS).astype(np.int64), COLOR_BINS - 1)


def texture_bins(channels: np.ndarray) -> np.ndarray:
    """The bin, 0 to 9, of the derivative in each of 8 directions, 45 degrees apart: [H, W, C] -> [H, W, 8 C].

    Derivatives are Gaussian, sigma 1. What falls in a direction is in bin 0, and rises in the opposite one.
    """
    x, y = (
        ndimage.gaussian_filter(channels, (1, 1, 0), order=order, mode="nearest")
        for order in ((0, 1, 0), (1, 0, 0))
    )
    angles = np.arange(TEXTURE_DIRECTIONS, dtype=np.float32) * (2 * np.pi / TEXTURE_DIRECTIONS)
    slopes = np.concatenate([np.cos(angle) * x + np.sin(angle) * y for angle in angles], -1)
    return (slopes * (TEXTURE_BINS / _STEEPEST)).clip(0, TEXTURE_BINS - 1).astype(np.int64)


def touching(labels: np.ndarray) -> np.ndarray:
    """Pairs of regions of a label map [H, W] that share a side of a pixel: int64 [P, 2], each once, the lower first."""
    count = int(labels.max()) + 1
    found = []
    for one, other in ((labels[:, :-1], labels[:, 1:]), (labels[:-1], labels[1:])):
        one, other = one[one != other], other[one != other]
        found.append(np.minimum(one, other) * count + np.maximum(one, other))
    codes = np.unique(np.concatenate(found))
    return np.stack([codes // count, codes % count], 1)


def likeness(
    regions: Regions,
    first: np.ndarray,
    second: np.ndarray,
    *,
    similarities: Collection[str],
    image_pixels: int,
) -> np.ndarray:
    """How alike the regions of each pair are: int64 [P] and [P] (or [1]) -> float64 [P].

    The sum of those asked for of the paper's four similarities, each from 0 to 1. `color` and `texture`: what two
    histograms, each adding up to 1, have in common. `size`: high for small regions, so that they grow at the same pace
    all over the image. `fill`: high where two regions fill the box around both.
    """
    pixels, others = regions.pixels[first], regions.pixels[second]
    total = np.zeros(len(first))
    if "color" in similarities:
        total += _in_common(regions.colors[first], regions.colors[second])
    if "texture" in similarities:
        total += _in_common(regions.textures[first], regions.textures[second])
    if "size" in similarities:
        total += 1 - (pixels + others) / image_pixels
    if "fill" in similarities:
        boxes = _around(regions.boxes[first], regions.boxes[second])
        total += 1 - ((boxes[:, 2:] - boxes[:, :2]).prod(-1) - pixels - others) / image_pixels
    return total


def group(regions: Regions, neighbors: np.ndarray, *, similarities: Collection[str]) -> np.ndarray:
    """Boxes int64 [2R - 1, 4] of R regions, then of each that two became, in that order; the last is of all.

    neighbors: int64 [P, 2], as of `touching`. Of pairs equally alike the one with the lower numbers is joined first.
    """
    assert similarities
    assert set(similarities) <= set(SIMILARITIES), similarities
    count, image_pixels = len(regions.pixels), int(regions.pixels.sum())
    regions = regions.with_room(count - 1)

    def alike(first: np.ndarray, second: np.ndarray) -> list[tuple[float, int, int]]:
        values = likeness(regions, first, second, similarities=similarities, image_pixels=image_pixels)
        return list(zip((-values).tolist(), first.tolist(), second.tolist(), strict=True))

    around: list[set[int]] = [set() for _ in range(count)]
    for one, other in neighbors.tolist():
        around[one].add(other)
        around[other].add(one)
    queue = alike(*neighbors.T)
    heapq.heapify(queue)
    joined = [False] * (2 * count - 1)
    for new in range(count, 2 * count - 1):
        # Pairs of which one is part of something larger by now stay in the queue until they come up.
        while True:
            _, one, other = heapq.heappop(queue)
            if not (joined[one] or joined[other]):
                break
        joined[one] = joined[other] = True
        regions.join(one, other, new)
        around.append((around[one] | around[other]) - {one, other})
        for near in around[new]:
            around[near] -= {one, other}
            around[near].add(new)
        near_it = np.array(sorted(around[new]), dtype=np.int64)
        for pair in alike(near_it, np.full(len(near_it), new)):
            heapq.heappush(queue, pair)
    return regions.boxes


def _histograms(labels: np.ndarray, bins: np.ndarray, count: int) -> np.ndarray:
    """Of each region, the histograms with `count` bins of each of its values, side by side: [R, values x count]."""
    regions = int(labels.max()) + 1
    values = np.moveaxis(bins.reshape(*labels.shape, -1), -1, 0)
    first = labels * count
    found = [np.bincount((first + value).ravel(), minlength=regions * count) for value in values]
    return np.concatenate([rows.reshape(regions, count) for rows in found], 1)


def _in_common(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The intersection of histograms [P, D] and [P, D], each divided by its sum: [P]."""
    return np.minimum(one / one.sum(-1, keepdims=True), other / other.sum(-1, keepdims=True)).sum(-1)


def _around(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The boxes around two: [..., 4]."""
    return np.concatenate(
        [np.minimum(one[..., :2], other[..., :2]), np.maximum(one[..., 2:], other[..., 2:])], -1
    )
