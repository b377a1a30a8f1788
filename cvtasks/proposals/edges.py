"""An edge map without a trained detector: where an image's colours change, how strongly, and in which direction.

The gradients of CIELAB's three channels at several scales add up to one structure tensor for each pixel (Di Zenzo, CVGIP
1986; Förstner and Gülch, 1987). With l1 >= l2 its eigenvalues, the strength is sqrt(l1) - sqrt(l2): an outline has one
direction and stays strong, texture has many and becomes weak. What the surroundings have on average is taken off, too
(surround suppression: Grigorescu et al., IEEE TIP 2003). Of what is left, ridges of one pixel stay (Canny, TPAMI 1986).

Structured edges (Dollár and Zitnick, ICCV 2013), which EdgeBoxes was published with, learn from people's drawings which
changes of colour are outlines of things. This map cannot know: shadows, print and stripes are outlines to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage
from skimage.color import rgb2lab

HALF = 20.0
"""The strength, in CIELAB's units, that has a magnitude of 0.5"""
AROUND = 8.0
"""Standard deviation, in pixels, of what counts as a pixel's surroundings"""
EQUAL = 1e-4
"""Magnitudes whose ratio differs from 1 by less are equal, for rounding to decide nothing."""


class Edges(NamedTuple):
    """Thin edges of an image of H x W pixels."""

    magnitude: np.ndarray
    """float32 [H, W], from 0 (no ridge) up to 1"""
    orientation: np.ndarray
    """float32 [H, W]: the direction along the edge, 0 to pi; 0 along the row, pi / 4 to the right and down"""


def edge_map(image: np.ndarray, *, scales: Sequence[float] = (1.0, 2.0), surround: float = 1.0) -> Edges:
    """The edges of an image, uint8 [H, W, 3].

    scales: standard deviations, in pixels, of what the channels are smoothed with
    surround: how much of the surroundings' mean strength is taken off. 1 and not 0 raised EdgeBoxes' average recall with
        100 boxes from 0.088 to 0.129 (24 training images of a piece of COCO), in less than half of the time.
    """
    xx, xy, yy = np.zeros((3, *image.shape[:2]), dtype=np.float32)
    for channel in np.moveaxis(rgb2lab(image).astype(np.float32), 2, 0):
        for scale in scales:
            smooth = _smooth(channel, scale)
            # Times the scale: a step is as strong at each.
            x, y = scale * _slope(smooth, 1), scale * _slope(smooth, 0)
            xx += x * x
            xy += x * y
            yy += y * y
    xx, xy, yy = (_smooth(part, max(scales) / 2) for part in (xx, xy, yy))
    # The eigenvalues are mean + apart and mean - apart.
    mean, apart = (xx + yy) / 2, np.hypot((xx - yy) / 2, xy)
    strength = np.sqrt(mean + apart) - np.sqrt((mean - apart).clip(min=0))
    strength = (strength - surround * _smooth(strength, AROUND)).clip(min=0)
    normal = np.arctan2(2 * xy, xx - yy) / 2
    return Edges(thin(strength / (strength + HALF), normal), (normal + np.pi / 2) % np.pi)


def thin(magnitude: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """Magnitudes [H, W], 0 where a stronger one is next, one pixel along `normal` or back; `normal` [H, W] in radians."""
    # Of two equal neighbours one has to stay, so the two sides differ, and which is ahead changes at the diagonals only.
    normal = np.where(normal > -np.pi / 4, normal, normal + np.pi)
    y, x = np.indices(magnitude.shape, dtype=np.float32)
    ahead, behind = (
        ndimage.map_coordinates(
            magnitude, [y + step * np.sin(normal), x + step * np.cos(normal)], order=1, mode="grid-constant"
        )
        for step in (1, -1)
    )
    return np.where((magnitude > ahead * (1 + EQUAL)) & (magnitude >= behind * (1 - EQUAL)), magnitude, 0)


def _smooth(values: np.ndarray, scale: float) -> np.ndarray:
    return ndimage.gaussian_filter(values, scale, mode="nearest", truncate=3)


def _slope(values: np.ndarray, axis: int) -> np.ndarray:
    return ndimage.correlate1d(values, np.array([-0.5, 0, 0.5]), axis=axis, mode="nearest")
