"""Average precision of PASCAL VOC (Everingham et al., IJCV 2010), in both of its forms.

VOC2007 averages the precision at eleven recalls, VOC2010 and later take the area under the curve. A detection
belongs to the object that it overlaps most; a second detection of an object is wrong; one that belongs to a
`difficult` object counts neither way.

The eleven recalls are steps of 0.1 in floating point, as in the usual implementations: 9 of 15 objects fall
short of the seventh, 0.6000000000000001, and published numbers depend on that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cvtasks.metrics.collected import Objects


@dataclass(frozen=True)
class VocResult:
    """AP of each class, [K]; NaN where the class has no object that counts."""

    ap_11_point: np.ndarray
    ap_all_points: np.ndarray

    @property
    def map_11_point(self) -> float:
        return _mean(self.ap_11_point)

    @property
    def map_all_points(self) -> float:
        return _mean(self.ap_all_points)


def evaluate(
    truth: Sequence[Objects],
    predictions: Sequence[Objects],
    *,
    num_classes: int,
    iou: float = 0.5,
    inclusive: bool = False,
) -> VocResult:
    """VOC's AP for the images at the same positions of `truth` and `predictions`.

    Both hold `boxes` (XYXY float64 [N, 4]) and `labels` (0..K-1); truth also `ignore` [N] (difficult), and
    predictions `scores` [N]. Equal scores keep the order of images, then of predictions.

    inclusive: both corners are pixels of the box, so widths, heights and overlaps are one pixel larger.
    """
    assert len(truth) == len(predictions)
    offset = 1.0 if inclusive else 0.0
    rows = [_best_objects(t, p, offset) for t, p in zip(truth, predictions, strict=True)]
    first = np.cumsum([0] + [len(t["labels"]) for t in truth])
    owner = _joined([best + start for (best, _), start in zip(rows, first[:-1], strict=True)], np.int64)
    overlap = _joined([best_iou for _, best_iou in rows], np.float64)
    scores = _joined([p["scores"] for p in predictions], np.float64)
    labels = _joined([p["labels"] for p in predictions], np.int64)
    truth_labels = _joined([t["labels"] for t in truth], np.int64)
    difficult = _joined([t["ignore"] for t in truth], np.bool_)

    values = np.full((2, num_classes), np.nan)
    for k in range(num_classes):
        num_objects = int(np.count_nonzero((truth_labels == k) & ~difficult))
        if num_objects:
            chosen = np.flatnonzero(labels == k)
            chosen = chosen[np.argsort(-scores[chosen], kind="stable")]
            values[:, k] = _average_precision(owner[chosen], overlap[chosen] >= iou, difficult, num_objects)
    return VocResult(*values)


def box_iou(a: np.ndarray, b: np.ndarray, *, offset: float = 0.0) -> np.ndarray:
    """IoU of XYXY boxes [N, 4] and [M, 4] in float64: [N, M]. `offset` is added to every width and height."""
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    overlap = np.clip(high - low + offset, 0, None).prod(axis=2)
    area_a, area_b = ((x[:, 2:] - x[:, :2] + offset).prod(axis=1) for x in (a, b))
    union = area_a[:, None] + area_b - overlap
    return np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0)


def _best_objects(truth: Objects, predictions: Objects, offset: float) -> tuple[np.ndarray, np.ndarray]:
    """For each prediction the position of the object of its class that it overlaps most, and the IoU."""
    if not len(truth["labels"]):
        return np.zeros(len(predictions["labels"]), np.int64), np.zeros(len(predictions["labels"]))
    ious = box_iou(predictions["boxes"], truth["boxes"], offset=offset)
    ious[predictions["labels"][:, None] != truth["labels"]] = -1
    best = ious.argmax(axis=1)
    return best, ious[np.arange(len(best)), best]


def _average_precision(
    owner: np.ndarray, overlaps: np.ndarray, difficult: np.ndarray, num_objects: int
) -> tuple[float, float]:
    """11-point and all-point AP of detections in descending order of score."""
    counted = np.ones(len(owner), np.bool_)
    counted[overlaps] = ~difficult[owner[overlaps]]
    right = np.zeros(len(owner), np.bool_)
    hits = np.flatnonzero(overlaps)
    right[hits[np.unique(owner[hits], return_index=True)[1]]] = True  # the first of each object
    right = right[counted]

    found = np.cumsum(right)
    precision = np.maximum.accumulate((found / np.arange(1, len(found) + 1))[::-1])[::-1]
    reached = np.searchsorted(found / num_objects, np.linspace(0, 1, 11))
    eleven = float(np.append(precision, 0)[reached].sum() / 11)
    return eleven, float(precision[right].sum() / num_objects)


def _joined(parts: list[np.ndarray], dtype: type) -> np.ndarray:
    return np.concatenate([np.zeros(0, dtype), *parts])


def _mean(values: np.ndarray) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")
