"""Boxes `(x1, y1, x2, y2)` of one image as NumPy arrays, as every method of proposals needs them. Letters: N, P boxes."""

from __future__ import annotations

import numpy as np


def area(boxes: np.ndarray) -> np.ndarray:
    """[..., 4] -> [...]"""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Intersection over union of every pair: [N, 4] and [P, 4] -> [N, P]; no box may be empty."""
    x1, y1, x2, y2 = first.T[:, :, None]
    left, top, right, bottom = second.T[:, None, :]
    width = (np.minimum(x2, right) - np.maximum(x1, left)).clip(min=0)
    height = (np.minimum(y2, bottom) - np.maximum(y1, top)).clip(min=0)
    shared = width * height
    return shared / (area(first)[:, None] + area(second)[None] - shared)


def best_apart(boxes: np.ndarray, scores: np.ndarray, *, overlap: float, limit: int) -> np.ndarray:
    """Non-maximum suppression: indices of at most `limit` boxes, best first, of which no two have an IoU above `overlap`.

    Of equal scores the earlier box counts as the better.
    """
    left = np.argsort(-scores, kind="stable")
    boxes = boxes.astype(np.float32)
    kept: list[int] = []
    while len(left) and len(kept) < limit:
        kept.append(int(left[0]))
        left = left[1:][iou(boxes[left[:1]], boxes[left[1:]])[0] <= overlap]
    return np.array(kept, dtype=np.int64)


def first_of(boxes: np.ndarray, *, height: int, width: int, limit: int) -> np.ndarray:
    """The first `limit` of boxes [N, 4], none twice, as float32; the whole image is the last where it is not among them."""
    whole = np.array([[0, 0, width, height]], np.float32)
    boxes = boxes.astype(np.float32)
    first = np.sort(np.unique(boxes, axis=0, return_index=True)[1])[:limit]
    if (boxes[first] == whole).all(1).any():
        return boxes[first]
    return np.concatenate([boxes[first[: limit - 1]], whole])
