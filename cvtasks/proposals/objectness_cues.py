"""The four cues of objectness (Alexe, Deselaers and Ferrari, TPAMI 2012, section 3), for all windows of an image at once.

Each says of a window how likely something whole stands in it. Letters: N windows, int (x1, y1, x2, y2) in the image's
pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image
from scipy import ndimage
from skimage.feature import canny

from cvtasks.proposals.boxes import area
from cvtasks.proposals.integral import box_sums, integral_image
from cvtasks.proposals.segmentation import in_color_space, segment

LAB_BINS = (4, 8, 8)


def saliency_map(image: np.ndarray, side: int) -> np.ndarray:
    """What is unexpected at one scale, float64 [side, side] from 0 to 1: the spectral residual of each of R, G and B.

    The logarithm of an image's spectrum is smooth; what sticks out of it stands out in the image (Hou and Zhang, CVPR
    2007).
    """
    small = np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR), np.float64)
    spectrum = np.fft.fft2(small, axes=(0, 1))
    amplitude = np.log(np.abs(spectrum) + 1e-9)
    residual = amplitude - ndimage.uniform_filter(amplitude, (3, 3, 1), mode="wrap")
    unexpected = np.fft.ifft2(np.exp(residual + 1j * np.angle(spectrum)), axes=(0, 1))
    salient = ndimage.gaussian_filter((np.abs(unexpected) ** 2).sum(-1), side / 25)
    # An even image has nothing that stands out; what rounding leaves of it must not be taken for that.
    flat = (small == small[:1, :1]).all()
    return np.zeros_like(salient) if flat else salient / salient.max()


def saliency(salient: np.ndarray, windows: np.ndarray, *, threshold: float) -> np.ndarray:
    """[N], of windows in the map's pixels: the sum of what is above the threshold, times the part that it covers."""
    above = salient >= threshold
    sums = box_sums(integral_image(salient * above), windows)
    return sums * box_sums(integral_image(above), windows) / area(windows)


def color_contrast(image: np.ndarray, windows: np.ndarray, *, ring: float) -> np.ndarray:
    """[N], 0 to 1: the chi-square distance of a window's colours from those around it, as histograms of 256 Lab bins.

    The surroundings reach as far as `ring` times half the window's sides; 0 where the image has none.
    """
    lab = in_color_space(image, "lab")
    bins = np.minimum((lab * LAB_BINS).astype(np.int64), np.array(LAB_BINS) - 1)
    codes = np.ravel_multi_index(tuple(np.moveaxis(bins, -1, 0)), LAB_BINS)
    outer = _grown(windows, ring, image.shape)
    room = area(outer) - area(windows)
    distance = np.zeros(len(windows))
    for code in np.unique(codes):
        integral = integral_image(codes == code)
        inside = box_sums(integral, windows)
        around = (box_sums(integral, outer) - inside) / room.clip(min=1)
        inside = inside / area(windows)
        distance += (inside - around) ** 2 / (inside + around).clip(min=1e-12)
    return np.where(room > 0, distance / 2, 0)


def edge_density(image: np.ndarray, windows: np.ndarray, *, ring: float) -> np.ndarray:
    """[N]: edge pixels (Canny) in the ring inside a window's border, `ring` times half its sides thick, by its
    perimeter."""
    edges = integral_image(canny(in_color_space(image, "intensity")[..., 0]))
    inner = _grown(windows, -ring, image.shape)
    perimeter = 2 * ((windows[:, 2] - windows[:, 0]) + (windows[:, 3] - windows[:, 1]))
    return (box_sums(edges, windows) - box_sums(edges, inner)) / perimeter


def straddling(
    image: np.ndarray, windows: np.ndarray, *, scale: float, sigma: float, min_size: int
) -> np.ndarray:
    """[N], at most 1: 1 less the part of a window whose superpixels lie inside and outside of it.

    A superpixel counts with the smaller of its two parts. An object's outline follows superpixels; a window that cuts them
    does not fit one.
    """
    labels = segment(in_color_space(image, "rgb"), scale=scale, sigma=sigma, min_size=min_size)
    cut = np.zeros(len(windows))
    for label, pixels in enumerate(np.bincount(labels.ravel())):
        inside = box_sums(integral_image(labels == label), windows)
        cut += np.minimum(inside, pixels - inside)
    return 1 - cut / area(windows)


def _grown(windows: np.ndarray, factor: float, shape: Sequence[int]) -> np.ndarray:
    """Windows with `factor` times half their sides more on each side, in whole pixels and inside the image."""
    height, width = shape[:2]
    sides = windows[:, 2:] - windows[:, :2]
    more = np.rint(sides * factor / 2).astype(np.int64)
    # Shrunk ones keep their middle: nothing is left of them, but corners stay in order.
    more = np.maximum(more, -(sides // 2))
    grown = np.concatenate([windows[:, :2] - more, windows[:, 2:] + more], 1)
    return grown.clip(0, [width, height, width, height])
