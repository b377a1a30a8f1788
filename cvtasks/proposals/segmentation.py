"""Graph segmentation (Felzenszwalb and Huttenlocher, IJCV 2004) in several colour spaces: the small regions to start from.

The segmentation is scikit-image's. A pixel has edges to its eight neighbours, as strong as their distance in colour; two
regions are joined by an edge that is no stronger than any inside of either, plus `scale / pixels`.
"""

from __future__ import annotations

import numpy as np
from PIL import Image
from skimage.color import rgb2hsv, rgb2lab
from skimage.segmentation import felzenszwalb

COLOR_SPACES = ("rgb", "hsv", "lab", "rgi", "hue", "intensity")
_LAB_OFFSET = np.array([0.0, 128, 128])
_LAB_RANGE = np.array([100.0, 255, 255])


def in_color_space(image: np.ndarray, space: str) -> np.ndarray:
    """uint8 [H, W, 3] -> float32 [H, W, C], each channel from 0 to 1.

    `rgi` is red and green as parts of the sum, and the intensity; `hue` and `intensity` are one channel each.
    """
    assert space in COLOR_SPACES, space
    if space in ("hsv", "hue"):
        channels = rgb2hsv(image)[..., : 1 if space == "hue" else 3]
    elif space == "lab":
        channels = (rgb2lab(image) + _LAB_OFFSET) / _LAB_RANGE
    else:
        channels = image / 255.0
        intensity = channels @ [0.299, 0.587, 0.114]
        if space == "intensity":
            channels = intensity[..., None]
        elif space == "rgi":
            total = channels.sum(-1).clip(min=1e-9)
            channels = np.stack([channels[..., 0] / total, channels[..., 1] / total, intensity], -1)
    return channels.clip(0, 1).astype(np.float32)


def segment(channels: np.ndarray, *, scale: float, sigma: float, min_size: int) -> np.ndarray:
    """Label map int64 [H, W], 0..R-1, of float [H, W, C] from 0 to 1.

    scale: the papers' k, for colours from 0 to 255: the larger, the larger the regions. sigma: of the Gaussian that smooths
    the image first, in pixels. min_size: smaller regions, in pixels, are joined to a neighbour.
    """
    return felzenszwalb(channels, scale=scale, sigma=sigma, min_size=min_size).astype(np.int64)


def shrunk(image: np.ndarray, longest_side: int | None) -> np.ndarray:
    """The image, uint8 [H, W, 3], made no longer than `longest_side` pixels; None: as it is."""
    height, width = image.shape[:2]
    if longest_side is None or max(height, width) <= longest_side:
        return image
    factor = longest_side / max(height, width)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX))
