"""Boxes against boxes: COCO's twelve numbers, AP of each class, and VOC's mAP in both forms."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from cvtasks.metrics import coco, voc
from cvtasks.metrics.collected import Collected, Objects
from cvtasks.metrics.results import LARGEST, write_results
from cvtasks.types import ClassInfo, ImageId, Prediction, Truth

_log = logging.getLogger(__name__)

RECALLS = np.linspace(0, 1, 101)


class DetectionEvaluator:
    """An `Evaluator` for detectors.

    voc_inclusive: VOC's IoU counts both corner pixels as part of a box (one more in width and height). Right
        for boxes kept as VOC's files write them; not for continuous ones, where the last pixel ends at x2.
    """

    judges: ClassVar[frozenset[str]] = frozenset({"boxes", "labels", "ignore"})

    def __init__(self, *, classes: ClassInfo, voc_inclusive: bool = False) -> None:
        self.classes = classes
        self.voc_inclusive = voc_inclusive
        self.reset()

    def reset(self) -> None:
        self._collected = Collected()
        self._result: coco.CocoResult | None = None

    def update(self, predictions: Sequence[Prediction], truth: Sequence[Truth]) -> None:
        """Adds images. Boxes that are not finite, or have a negative size, are left out with a warning."""
        for prediction, labels in zip(predictions, truth, strict=True):
            image_id = labels["image_id"]
            self._collected.add(
                image_id, truth=_truth_columns(labels), predictions=_prediction_columns(prediction, image_id)
            )

    def state(self) -> dict[str, Any]:
        return self._collected.state()

    def merge(self, states: Iterable[dict[str, Any]]) -> None:
        """Adds what other processes collected. The order and the split leave no trace in the numbers."""
        self._collected.merge(states)

    def compute(self) -> dict[str, float]:
        """`box/` + COCO's names, `box/AP/<class>`, `box/VOC07_mAP`, `box/VOC_mAP`; NaN where undefined."""
        truth, predictions = self._collected.by_image("truth"), self._collected.by_image("predictions")
        num_classes = len(self.classes)
        result = coco.evaluate(truth, predictions, num_classes=num_classes)
        voc_result = voc.evaluate(
            [t | {"boxes": coco.xyxy(t["boxes"])} for t in truth],
            [p | {"boxes": coco.xyxy(p["boxes"])} for p in predictions],
            num_classes=num_classes,
            inclusive=self.voc_inclusive,
        )
        self._result = result
        numbers = result.numbers | {
            f"AP/{name}": float(ap) for name, ap in zip(self.classes.names, result.class_ap, strict=True)
        }
        numbers |= {"VOC07_mAP": voc_result.map_11_point, "VOC_mAP": voc_result.map_all_points}
        return {f"box/{name}": value for name, value in numbers.items()}

    def write(self, folder: Path) -> None:
        """`box_results.json` in `folder`: COCO's results format, with the data set's own ids.

        Evaluated again, by this class or by pycocotools, the file gives the same numbers.
        """
        write_results(folder / "box_results.json", self._collected, self.classes)

    def plot_data(self) -> dict[str, Any]:
        """`precision_recall` at IoU 0.5 (each class that has truth, and their mean) and `per_class_ap`."""
        assert self._result is not None, "compute() comes first"
        class_ap, curves = self._result.class_ap, self._result.curves_50
        present = np.flatnonzero(~np.isnan(class_ap))
        names = self.classes.names
        return {
            "precision_recall": {
                "recall": RECALLS.tolist(),
                "classes": {names[k]: curves[k].tolist() for k in present},
                "mean": curves[present].mean(axis=0).tolist() if len(present) else [],
            },
            "per_class_ap": {names[k]: float(class_ap[k]) for k in present},
        }


def _truth_columns(truth: Truth) -> Objects:
    return {
        "boxes": coco.xywh(truth["boxes"]),
        "labels": np.asarray(truth["labels"], np.int64),
        "area": np.asarray(truth["area"], np.float64),
        "ignore": np.asarray(truth["ignore"], np.bool_),
    }


def _prediction_columns(prediction: Prediction, image_id: ImageId) -> Objects:
    boxes, scores = (prediction[name].detach().cpu().double().numpy() for name in ("boxes", "scores"))
    labels = prediction["labels"].cpu().numpy()
    sound = (
        np.isfinite(scores)
        & (np.abs(boxes) <= LARGEST).all(axis=1)
        & (boxes[:, 2:] >= boxes[:, :2]).all(axis=1)
    )
    if not sound.all():
        _log.warning("image %s: %d predicted boxes make no sense and are left out", image_id, (~sound).sum())
        boxes, scores, labels = boxes[sound], scores[sound], labels[sound]
    boxes = coco.xywh(boxes)
    return {"boxes": boxes, "labels": labels, "area": boxes[:, 2] * boxes[:, 3], "scores": scores}
