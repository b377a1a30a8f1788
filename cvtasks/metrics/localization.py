"""One object's class and box against its true ones, by the rule of ILSVRC (Russakovsky et al., IJCV 2015).

A guess is right if its class is, and its box has an IoU of at least 0.5 with the true box. Of an image the first guess
counts (top-1), or any of the first five (top-5). ILSVRC publishes the errors, 1 minus these accuracies, and takes any
object of the class as the true one; here an image has one object.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from cvtasks.metrics import coco
from cvtasks.metrics.collected import Collected, Objects
from cvtasks.metrics.results import LARGEST, write_results
from cvtasks.metrics.voc import box_iou
from cvtasks.types import ClassInfo, ImageId, Prediction, Truth

_log = logging.getLogger(__name__)

GUESSES = 5
RIGHT_IOU = 0.5
VERDICTS = ("right", "box", "class", "both")
"""Of a first guess: right, or what is wrong with it"""


class LocalizationEvaluator:
    """An `Evaluator` for one object in each image, whose guesses come best first.

    An image without a guess has its class and its box wrong, with an IoU of 0.
    """

    judges: ClassVar[frozenset[str]] = frozenset({"label", "boxes"})

    def __init__(self, *, classes: ClassInfo) -> None:
        self.classes = classes
        self.reset()

    def reset(self) -> None:
        self._collected = Collected()
        self._first: Objects | None = None

    def update(self, predictions: Sequence[Prediction], truth: Sequence[Truth]) -> None:
        """Adds images. A box that is not finite, or has a negative size, becomes an empty one, with a warning."""
        for prediction, labels in zip(predictions, truth, strict=True):
            image_id = labels["image_id"]
            self._collected.add(
                image_id,
                truth={"label": np.array([labels["label"]], np.int64), "boxes": coco.xywh(labels["boxes"])},
                predictions=_guesses(prediction, image_id),
            )

    def state(self) -> dict[str, Any]:
        return self._collected.state()

    def merge(self, states: Iterable[dict[str, Any]]) -> None:
        """Adds what other processes collected. The order and the split leave no trace in the numbers."""
        self._collected.merge(states)

    def compute(self) -> dict[str, float]:
        """`loc/accuracy`, `loc/accuracy_top5`, `loc/class_accuracy`, `loc/class_accuracy_top5`, `loc/mIoU` (of the first
        guess), and `loc/error/class`, `loc/error/box`, `loc/error/both`: the shares of images whose first guess has that
        wrong, with an accuracy of 1 in all.
        """
        images = [
            _judged(truth, guesses)
            for truth, guesses in zip(
                self._collected.by_image("truth"), self._collected.by_image("predictions"), strict=True
            )
        ]
        right_class = np.array([image[0] for image in images], np.bool_).reshape(-1, GUESSES)
        iou = np.array([image[1] for image in images], np.float64).reshape(-1, GUESSES)
        right_box = iou >= RIGHT_IOU
        self._first = {
            "label": np.array([t["label"][0] for t in self._collected.by_image("truth")], np.int64),
            "found": np.array([image[2] for image in images], np.int64),
            "class": right_class[:, 0],
            "box": right_box[:, 0],
        }
        both = right_class & right_box
        numbers = {
            "accuracy": _mean(both[:, 0]),
            "accuracy_top5": _mean(both.any(axis=1)),
            "class_accuracy": _mean(right_class[:, 0]),
            "class_accuracy_top5": _mean(right_class.any(axis=1)),
            "mIoU": _mean(iou[:, 0]),
        }
        verdicts = _verdicts(self._first)
        numbers |= {f"error/{name}": _share(verdicts, name) for name in ("class", "box", "both")}
        return {f"loc/{name}": value for name, value in numbers.items()}

    def write(self, folder: Path) -> None:
        """`box_results.json` in `folder`: COCO's results format, a record for each guess, with the data set's own ids.

        Evaluated again the file gives the same numbers.
        """
        write_results(folder / "box_results.json", self._collected, self.classes)

    def plot_data(self) -> dict[str, Any]:
        """`confusion_matrix`: of each class's images the shares whose first guess has each class. `error_breakdown`: of all
        images and of each class's the shares of `VERDICTS`.
        """
        first = self._first
        assert first is not None, "compute() comes first"
        names, count = self.classes.names, len(self.classes)
        confusion = np.zeros((count, count + 1))
        np.add.at(confusion, (first["label"], first["found"]), 1)
        images = confusion.sum(axis=1, keepdims=True)
        shares = np.divide(confusion, images, out=np.full_like(confusion, np.nan), where=images > 0)
        verdicts = _verdicts(first)
        groups = {"all images": np.ones(len(verdicts), np.bool_)}
        groups |= {name: first["label"] == k for k, name in enumerate(names) if images[k]}
        return {
            "confusion_matrix": {
                "classes": list(names),
                "shares": shares[:, :count].tolist(),
                "of": "images",
            },
            "error_breakdown": {
                name: {verdict: _share(verdicts[chosen], verdict) for verdict in VERDICTS}
                for name, chosen in groups.items()
            },
        }


def _guesses(prediction: Prediction, image_id: ImageId) -> Objects:
    boxes, scores = (prediction[name].detach().cpu().double().numpy() for name in ("boxes", "scores"))
    sound = (np.abs(boxes) <= LARGEST).all(axis=1) & (boxes[:, 2:] >= boxes[:, :2]).all(axis=1)
    if not sound.all():
        _log.warning("image %s: %d predicted boxes make no sense", image_id, (~sound).sum())
        boxes = np.where(sound[:, None], boxes, 0)
    return {"boxes": coco.xywh(boxes), "labels": prediction["labels"].cpu().numpy(), "scores": scores}


def _judged(truth: Objects, guesses: Objects) -> tuple[np.ndarray, np.ndarray, int]:
    """Whether the class of each of five guesses is right, its IoU, and the class of the first (-1: none)."""
    labels = np.full(GUESSES, -1, np.int64)
    ious = np.zeros(GUESSES)
    count = min(GUESSES, len(guesses["labels"]))
    labels[:count] = guesses["labels"][:count]
    ious[:count] = box_iou(coco.xyxy(guesses["boxes"][:count]), coco.xyxy(truth["boxes"]))[:, 0]
    return labels == truth["label"], ious, int(labels[0])


def _verdicts(first: Objects) -> np.ndarray:
    wrong = np.select([first["class"] & first["box"], first["class"], first["box"]], [0, 1, 2], 3)
    return np.array(VERDICTS)[wrong]


def _share(verdicts: np.ndarray, verdict: str) -> float:
    return _mean(np.equal(verdicts, verdict))


def _mean(values: Any) -> float:
    return float(values.mean()) if len(values) else float("nan")
