"""Sums over boxes of pixels in constant time (Viola and Jones, CVPR 2001)."""

from __future__ import annotations

import numpy as np


def integral_image(values: np.ndarray) -> np.ndarray:
    """float64 [H + 1, W + 1]: at y, x the sum of what is above and left of that pixel's upper left corner."""
    return np.pad(values.astype(np.float64).cumsum(0).cumsum(1), ((1, 0), (1, 0)))


def box_sums(integral: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """[N]: the sums over boxes, int [N, 4]"""
    x1, y1, x2, y2 = boxes.T
    return integral[y2, x2] - integral[y1, x2] - integral[y2, x1] + integral[y1, x1]
