"""How many objects proposals find: average recall, as COCO counts it (Hosang et al., TPAMI 2016; Lin et al., ECCV 2014).

Classes do not count. At an IoU threshold each proposal, best first, takes of the objects that it overlaps by so much,
and that no other has, the one it overlaps most: pycocotools' rule, ranges of area and IoU. It is not asked itself,
because of its results only three numbers of proposals come out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from cvtasks.metrics.coco import xywh
from cvtasks.types import Truth

THRESHOLDS = np.linspace(0.5, 0.95, 10)
SIZES = {"all": (0.0, 1e10), "small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}
"""COCO's ranges of area, in pixels; both bounds belong to a range."""
COUNTS = (10, 100, 1000)
"""Proposals of each image that are looked at"""


class ProposalRecall:
    """Collects proposals image by image. What truth ignores (crowd, difficult) counts nowhere."""

    def __init__(self) -> None:
        # For each size and image: the rank of the proposal that finds each object, [T, N].
        self._ranks: dict[str, list[np.ndarray]] = {size: [] for size in SIZES}
        self._proposals: list[int] = []

    def update(self, boxes: np.ndarray, truth: Truth) -> None:
        """boxes: proposals, float [P, 4], best first. truth: `boxes`, `area` and `ignore` of the same image."""
        counted = ~np.asarray(truth["ignore"], bool)
        area = np.asarray(truth["area"], np.float64)[counted]
        overlap = overlaps(boxes, np.asarray(truth["boxes"], np.float64).reshape(-1, 4)[counted])
        self._proposals.append(len(boxes))
        for size, (least, most) in SIZES.items():
            within = (area >= least) & (area <= most)
            self._ranks[size].append(ranks(overlap[:, within], THRESHOLDS))

    def compute(self) -> dict[str, float]:
        """`proposals/` + AR over all proposals and over the best 10, 100 and 1000, AR of the sizes, recall at IoU 0.5 over
        all proposals, and proposals an image; NaN where there is no object."""
        numbers = {"AR": self._recall("all").mean()}
        numbers |= {f"AR@{count}": self._recall("all", count).mean() for count in COUNTS}
        for size in list(SIZES)[1:]:
            numbers[f"AR@{COUNTS[-1]}_{size}"] = self._recall(size, COUNTS[-1]).mean()
        numbers["recall@0.5"] = self._recall("all")[0]
        numbers |= {f"recall@0.5_{size}": self._recall(size)[0] for size in list(SIZES)[1:]}
        numbers["boxes_per_image"] = np.mean(self._proposals) if self._proposals else np.nan
        return {f"proposals/{name}": float(value) for name, value in numbers.items()}

    def plot_data(self) -> dict[str, Any]:
        """`recall_at_iou`: recall over the thresholds for the best 10, 100 and 1000; `recall_of_proposals`: recall at IoU
        0.5 over their number, by the objects' size."""
        most = max(self._proposals, default=1)
        numbers = np.unique(np.geomspace(1, max(most, 1), 60).round().astype(int)).tolist()
        present = [size for size in SIZES if self._objects(size)]
        return {
            "recall_at_iou": {
                "iou": THRESHOLDS.tolist(),
                "recall": {str(count): self._recall("all", count).tolist() for count in COUNTS},
            },
            "recall_of_proposals": {
                "proposals": numbers,
                "recall": {size: [float(self._recall(size, n)[0]) for n in numbers] for size in present},
            },
        }

    def _objects(self, size: str) -> int:
        return sum(found.shape[1] for found in self._ranks[size])

    def _recall(self, size: str, count: int | None = None) -> np.ndarray:
        """Of all objects of a size the share that the best `count` proposals of their images find, [T]."""
        every = np.concatenate([np.zeros((len(THRESHOLDS), 0), np.int64), *self._ranks[size]], axis=1)
        if not every.shape[1]:
            return np.full(len(THRESHOLDS), np.nan)
        return (every < (NEVER if count is None else count)).mean(axis=1)


NEVER = np.iinfo(np.int64).max
"""The rank of an object that no proposal finds"""


def ranks(overlap: np.ndarray, thresholds: Sequence[float] | np.ndarray) -> np.ndarray:
    """int64 [T, N]: at each threshold the position of the proposal that finds each object, or `NEVER`.

    overlap: IoU of proposals, best first, with objects, [P, N].
    """
    found = np.full((len(thresholds), overlap.shape[1]), NEVER)
    for row, threshold in zip(found, thresholds, strict=True):
        free = overlap.copy()
        for rank in np.flatnonzero((overlap >= threshold).any(axis=1)):
            # Of equal ones pycocotools takes the last.
            best = free.shape[1] - 1 - int(free[rank, ::-1].argmax())
            if free[rank, best] >= threshold:
                row[best] = rank
                free[:, best] = -1
    return found


def overlaps(boxes: np.ndarray, objects: np.ndarray) -> np.ndarray:
    """IoU float64 [P, N] of corners [P, 4] with corners [N, 4]."""
    if not len(boxes) or not len(objects):
        return np.zeros((len(boxes), len(objects)))
    ious: np.ndarray = coco_mask.iou(xywh(boxes), xywh(objects), [0] * len(objects))
    return ious
