"""COCO's numbers (Lin et al., ECCV 2014) by pycocotools, from arrays in memory instead of files.

Matching, accumulation and averaging are pycocotools' own. Deviations: annotation ids count from 1, as
pycocotools takes an object with the id 0 for one that nothing matched; an undefined number is NaN, not -1.
"""

from __future__ import annotations

import contextlib
import io
import itertools
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from pycocotools.cocoeval import COCOeval

from cvtasks.metrics.collected import Objects

IouType: TypeAlias = Literal["bbox", "segm", "keypoints"]

PREFIXES: dict[IouType, str] = {"bbox": "box", "segm": "mask", "keypoints": "keypoint"}

_REGION_NAMES = (
    "AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large",
    "AR1", "AR10", "AR100", "AR_small", "AR_medium", "AR_large",
)  # fmt: skip
_KEYPOINT_NAMES = (
    "AP", "AP50", "AP75", "AP_medium", "AP_large", "AR", "AR50", "AR75", "AR_medium", "AR_large",
)  # fmt: skip
NAMES: dict[IouType, tuple[str, ...]] = {
    "bbox": _REGION_NAMES,
    "segm": _REGION_NAMES,
    "keypoints": _KEYPOINT_NAMES,
}

_RECORD_KEYS = {
    "boxes": "bbox", "labels": "category_id", "area": "area", "ignore": "iscrowd", "scores": "score",
    "rles": "segmentation", "keypoints": "keypoints", "num_keypoints": "num_keypoints",
}  # fmt: skip


def xywh(boxes: np.ndarray) -> np.ndarray:
    """`(x1, y1, x2, y2)` as COCO's `(x, y, width, height)`, float64 [N, 4], to a millionth of a pixel.

    The rounding gives back the very numbers of a file, which `x + width - x` does not (an IoU that is exactly
    a threshold depends on them), and is finer than float32 resolves above 16 pixels.
    """
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    return np.round(np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1), 6)


def xyxy(boxes: np.ndarray) -> np.ndarray:
    """COCO's boxes as corners, float64 [N, 4]."""
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


@dataclass(frozen=True)
class CocoResult:
    """T IoU thresholds, R recalls, K classes, A ranges of area, M limits of detections. NaN: undefined."""

    numbers: dict[str, float]
    """COCO's own list, by the names of `NAMES`."""
    precision: np.ndarray
    """[T, R, K, A, M]"""
    recall: np.ndarray
    """[T, K, A, M]"""

    @property
    def class_ap(self) -> np.ndarray:
        """AP of each class, [K]; NaN where the class has no truth."""
        classes = range(self.precision.shape[2])
        return np.array([self.precision[:, :, k, 0, -1].mean() for k in classes])

    @property
    def curves_50(self) -> np.ndarray:
        """Precision at IoU 0.5 of each class over the recalls, [K, R]."""
        return self.precision[0, :, :, 0, -1].T


def evaluate(
    truth: Sequence[Objects],
    predictions: Sequence[Objects],
    *,
    num_classes: int,
    iou_type: IouType = "bbox",
    sigmas: Sequence[float] | None = None,
) -> CocoResult:
    """COCO's numbers for the images at the same positions of `truth` and `predictions`.

    Both hold `boxes` (XYWH float64 [N, 4]), `labels` (0..K-1) and `area` [N]; truth also `ignore` [N], which
    becomes COCO's crowd; predictions `scores` [N]. `segm` needs `rles` (compressed run-lengths, an object
    array [N]); `keypoints` needs `keypoints` [N, 3J] in COCO's order x, y, v, and truth `num_keypoints` [N].
    All numbers must be finite: pycocotools takes a NaN for a match, and dies of wrong run-lengths.

    sigmas: width of each keypoint for OKS, [J]; the default is COCO's seventeen.
    """
    assert len(truth) == len(predictions)
    evaluation = _InMemory(truth, predictions, num_classes, iou_type)
    if sigmas is not None:
        evaluation.params.kpt_oks_sigmas = np.asarray(sigmas, np.float64)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    numbers = zip(NAMES[iou_type], _nan_for_undefined(evaluation.stats).tolist(), strict=True)
    results = evaluation.eval
    return CocoResult(
        dict(numbers), _nan_for_undefined(results["precision"]), _nan_for_undefined(results["recall"])
    )


class _InMemory(COCOeval):
    """pycocotools' evaluation fed directly, without the copies and prints of `COCO` and `loadRes`."""

    def __init__(
        self, truth: Sequence[Objects], predictions: Sequence[Objects], num_classes: int, iou_type: IouType
    ) -> None:
        super().__init__(iouType=iou_type)
        self.params.imgIds = list(range(len(truth)))
        self.params.catIds = list(range(num_classes))
        self._truth, self._predictions = truth, predictions

    def _prepare(self) -> None:
        self._gts, self._dts = _grouped(self._truth), _grouped(self._predictions)
        for record in itertools.chain.from_iterable(self._gts.values()):
            record["ignore"] = bool(record["iscrowd"] or record.get("num_keypoints") == 0)
        for records in self._dts.values():
            records.sort(key=lambda record: -record["score"])

    def computeIoU(self, imgId: int, catId: int) -> Any:  # noqa: N802, N803 (pycocotools' names)
        """Nothing where no pair reaches the lowest threshold."""
        ious = super().computeIoU(imgId, catId)
        return ious if len(ious) and np.max(ious, initial=0) >= self.params.iouThrs[0] else []

    def evaluateImg(self, imgId: int, catId: int, aRng: Any, maxDet: int) -> Any:  # noqa: N802, N803
        """pycocotools' matching; without its loops where there is nothing to match, which is most often."""
        truth, predictions = self._gts[imgId, catId], self._dts[imgId, catId][:maxDet]
        if not truth and not predictions:
            return None
        if len(self.ious[imgId, catId]):
            return super().evaluateImg(imgId, catId, aRng, maxDet)
        low, high = aRng
        unmatched = np.zeros((len(self.params.iouThrs), len(predictions)), np.bool_)
        outside = np.array([not low <= p["area"] <= high for p in predictions], np.bool_)
        return {
            "dtScores": [p["score"] for p in predictions],
            "dtMatches": unmatched,
            "dtIgnore": unmatched | outside,
            "gtIgnore": np.array([t["ignore"] or not low <= t["area"] <= high for t in truth], np.bool_),
        }


def _grouped(images: Sequence[Objects]) -> dict[tuple[int, int], list[dict[str, Any]]]:
    """Records as pycocotools wants them, by (image, class)."""
    groups: dict[tuple[int, int], list[dict[str, Any]]] = defaultdict(list)
    for record in _records(images):
        groups[record["image_id"], record["category_id"]].append(record)
    return groups


def _records(images: Sequence[Objects]) -> Iterator[dict[str, Any]]:
    ids = itertools.count(1)
    for image_id, objects in enumerate(images):
        keys = [_RECORD_KEYS[name] for name in objects]
        for values in zip(*(column.tolist() for column in objects.values()), strict=True):
            yield dict(zip(keys, values, strict=True)) | {"id": next(ids), "image_id": image_id}


def _nan_for_undefined(values: np.ndarray) -> np.ndarray:
    return np.where(values == -1, np.nan, values)
