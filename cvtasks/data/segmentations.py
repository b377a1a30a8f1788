"""COCO's outlines of objects (polygons and run-lengths): checked, packed in arrays, and turned into masks.

pycocotools turns them into masks, but it crashes the process or takes all memory on coordinates that are huge
or not finite and on run-lengths that do not add up. So every number is checked before pycocotools sees it.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask as mask_utils

MAX_LENGTH = 4e6
"""Pixels along an outline, at most: pycocotools holds five points for each."""


@dataclass(frozen=True)
class Outline:
    """One object's outline as its file gives it."""

    numbers: np.ndarray
    """Polygons: x, y, x, y ... of all parts, float64. Run-lengths: the runs, int64, the first one outside."""
    parts: tuple[int, ...] = ()
    """How many of the numbers each polygon has; nothing for run-lengths."""
    size: tuple[int, int] | None = None
    """Height and width, of run-lengths"""

    @property
    def area(self) -> float:
        """In pixels; parts that overlap count twice."""
        if not self.parts:
            return float(self.numbers[1::2].sum())
        return sum(_area(part) for part in np.split(self.numbers, np.cumsum(self.parts)[:-1]))

    def problem(self, size: tuple[int, int]) -> str | None:
        """What is wrong with it, if anything, as the outline of something in an image of (height, width)."""
        height, width = size
        if not self.parts:
            if self.size != size:
                return f"run-lengths are for {self.size}, but the image has (height, width) {size}"
            if self.numbers.sum() != height * width:
                return (
                    f"run-lengths add up to {self.numbers.sum()} pixels, but the image has {height * width}"
                )
            return None
        points = self.numbers.reshape(-1, 2)
        far = np.abs(points / (width, height) - 0.5).max() > 1.5
        return "polygon lies far outside the image" if far else None


def numbers(value: object) -> np.ndarray | None:
    """A list of numbers as an array [n] of integers or floats; None if it is anything else."""
    if not isinstance(value, list):
        return None
    try:
        array = np.array(value)
    except (ValueError, OverflowError):
        return None
    return array if array.ndim == 1 and array.dtype.kind in "iuf" else None


def read_outline(value: Any) -> Outline | str | None:
    """COCO's `segmentation`, or what is wrong with it; None where it is empty."""
    if not value:
        return None
    if isinstance(value, dict):
        return _read_runs(value)
    if not isinstance(value, list):
        return "segmentation is neither a list of polygons nor run-lengths"
    parts = [numbers(part) for part in value]
    sound = [part for part in parts if part is not None]
    if len(sound) < len(parts):
        return "polygon is not a list of numbers"
    for part in sound:
        if len(part) % 2:
            return f"polygon has an odd number of coordinates ({len(part)})"
        if len(part) < 6:
            return f"polygon has fewer than three points ({len(part)} numbers)"
    points = np.concatenate(sound).astype(np.float64)
    if not (np.abs(points) <= 1e6).all():
        return "polygon has a number that is not finite, or too large"
    if np.abs(np.diff(points.reshape(-1, 2), axis=0)).max(axis=1).sum() > MAX_LENGTH:
        return f"polygon is longer than {MAX_LENGTH:g} pixels"
    return Outline(points, parts=tuple(map(len, sound)))


def _read_runs(value: dict[str, Any]) -> Outline | str:
    counts, size = value.get("counts"), numbers(value.get("size"))
    if (
        size is None
        or size.dtype.kind == "f"
        or len(size) != 2
        or not (size > 0).all()
        or (size >= 2**16).any()
    ):
        return "run-lengths have no size [height, width] below 65536"
    runs = decompress(counts) if isinstance(counts, str) else numbers(counts)
    if runs is None or runs.dtype.kind == "f" or not len(runs):
        return "run-lengths are not a list of whole numbers or a compressed string"
    if runs.min() < 0 or runs.max() > 2**32 - 1:
        return "run-lengths have a count that is negative or too large"
    return Outline(runs.astype(np.int64), size=(int(size[0]), int(size[1])))


def decompress(text: str) -> np.ndarray | None:
    """The runs in COCO's compressed string, int64 [n]; None where it is not one.

    A number is written in groups of five bits, the lowest first, each in a character from '0' on whose 32
    says that another follows; the 16 of the last is the sign. From the fourth on, each is the difference to
    the run before the last (pycocotools' `rleFrString`).
    """
    codes = np.frombuffer(text.encode("utf-8", "replace"), np.uint8).astype(np.int64) - 48
    if not len(codes) or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        return None
    last = np.flatnonzero((codes & 32) == 0)
    first = np.concatenate([[0], last[:-1] + 1])
    lengths = last - first + 1
    if lengths.max() > 7:  # 35 bits, where no run has more than 32
        return None
    place = np.arange(len(codes)) - np.repeat(first, lengths)
    values = np.add.reduceat((codes & 31) << (5 * place), first)
    values -= np.where(codes[last] & 16, 1 << (5 * lengths), 0)
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values


class Segmentations:
    """The outlines of N objects in a few arrays; each was checked against the size of its image."""

    def __init__(self, outlines: Sequence[Outline]) -> None:
        polygons = [o.numbers for o in outlines if o.parts]
        runs = [o.numbers for o in outlines if not o.parts]
        self._points = np.concatenate([np.zeros(0), *polygons]).astype(np.float32)
        self._runs = np.concatenate([np.zeros(0, np.int64), *runs]).astype(np.uint32)
        self._part_ends = _ends([length for o in outlines for length in o.parts])
        self._parts_of = _ends([len(o.parts) for o in outlines])
        self._runs_of = _ends([0 if o.parts else len(o.numbers) for o in outlines])

    def rles(self, objects: slice, size: tuple[int, int]) -> list[dict[str, Any]]:
        """Compressed run-lengths of these objects in an image of (height, width), for pycocotools."""
        return [self._rle(n, *size) for n in range(objects.start, objects.stop)]

    def masks(self, objects: slice, size: tuple[int, int]) -> np.ndarray:
        """bool [N, H, W]"""
        rles = self.rles(objects, size)
        if not rles:
            return np.zeros((0, *size), bool)
        return np.ascontiguousarray(mask_utils.decode(rles).transpose(2, 0, 1)).view(bool)

    def _rle(self, n: int, height: int, width: int) -> dict[str, Any]:
        runs = self._runs[self._runs_of[n] : self._runs_of[n + 1]]
        if len(runs):
            return mask_utils.frPyObjects({"size": [height, width], "counts": runs}, height, width)
        ends = self._part_ends[self._parts_of[n] : self._parts_of[n + 1] + 1]
        # Files give two decimals. Rounding brings back those that float32 could not hold, and so the very
        # masks of pycocotools, which rounds to fifths of a pixel.
        parts = [np.round(self._points[a:b].astype(np.float64), 3) for a, b in itertools.pairwise(ends)]
        return mask_utils.merge(mask_utils.frPyObjects(parts, height, width))


def _area(part: np.ndarray) -> float:
    x, y = part[0::2], part[1::2]
    return abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))) / 2


def _ends(lengths: Sequence[int]) -> np.ndarray:
    return np.cumsum([0, *lengths], dtype=np.int64)
