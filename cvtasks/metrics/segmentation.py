"""Label maps against label maps: every number of semantic segmentation from one accumulated confusion matrix, and
boundary F1. K classes; where truth is 255 (void) nothing counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np

from cvtasks.config.schema import Range
from cvtasks.errors import DataError
from cvtasks.metrics.boundaries import VOID, count_boundaries, f1_of_boundaries, tolerance
from cvtasks.metrics.collected import Collected, Objects
from cvtasks.metrics.label_folder import encode, file_name
from cvtasks.types import ClassInfo, Prediction, Truth


class SegmentationEvaluator:
    """An `Evaluator` for label maps.

    A predicted 255 is no class: the pixel counts as missed, and as found for none.

    boundary_tolerance: how far a boundary may be off to count as found, as a part of the image's diagonal (0.0075:
        Csurka et al., 2013); null: no boundary F1.
    """

    judges: ClassVar[frozenset[str]] = frozenset({"segmentation"})

    def __init__(
        self,
        classes: ClassInfo,
        *,
        boundary_tolerance: Annotated[float, Range(above=0, below=1)] | None = 0.0075,
    ) -> None:
        self.classes = classes
        self.boundary_tolerance = boundary_tolerance
        self.reset()

    def reset(self) -> None:
        self._collected = Collected()
        self._confusion: np.ndarray | None = None

    def update(self, predictions: Sequence[Prediction], truth: Sequence[Truth]) -> None:
        for prediction, labels in zip(predictions, truth, strict=True):
            if labels["image_id"] not in self._collected:
                found = prediction["segmentation"].cpu().numpy()
                self._collected.add(labels["image_id"], **self._tables(labels["segmentation"], found))

    def state(self) -> dict[str, Any]:
        return self._collected.state()

    def merge(self, states: Iterable[dict[str, Any]]) -> None:
        """Adds what other processes collected. The order and the split leave no trace in the numbers."""
        self._collected.merge(states)

    def compute(self) -> dict[str, float]:
        """`seg/mIoU`, `seg/pixel_accuracy`, `seg/mean_accuracy`, `seg/fwIoU`, `seg/boundary_F1`, `seg/IoU/<class>`.

        A class without a pixel in truth and predictions has IoU NaN and is in no mean. Raises DataError where no
        image has a pixel that counts.
        """
        confusion = self._confusion = self._summed()
        total = confusion.sum()
        if not total:
            raise DataError(
                f"no pixel of the {len(self._collected)} images can be judged: all are void; see dataset.ignore_index"
            )
        right, in_truth, iou = np.diagonal(confusion), confusion.sum(axis=1), _iou(confusion)
        numbers = {
            "mIoU": np.nanmean(iou),
            "pixel_accuracy": right.sum() / total,
            "mean_accuracy": np.nanmean(_ratio(right, in_truth)),
            "fwIoU": np.nansum(iou * in_truth) / total,
        }
        if self.boundary_tolerance is not None:
            numbers["boundary_F1"] = self._boundary_f1()
        numbers |= {f"IoU/{name}": value for name, value in zip(self.classes.names, iou, strict=True)}
        return {f"seg/{name}": float(value) for name, value in numbers.items()}

    def write(self, folder: Path) -> None:
        """`<image id>.png` in `folder`: the label maps in the classes' colours, as `LabelFolder` reads them."""
        for image_id, table in zip(self._collected.ids(), self._collected.by_image("png"), strict=True):
            file = folder / file_name(image_id)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(table["bytes"].tobytes())

    def plot_data(self) -> dict[str, Any]:
        """`confusion_matrix`: of each class's pixels the shares found as each class. `per_class_iou`."""
        assert self._confusion is not None, "compute() comes first"
        names, confusion = list(self.classes.names), self._confusion
        shares = _ratio(confusion[:, :-1], confusion.sum(axis=1, keepdims=True))
        return {
            "confusion_matrix": {"classes": names, "shares": shares.tolist()},
            "per_class_iou": dict(zip(names, _iou(confusion).tolist(), strict=True)),
        }

    def _tables(self, truth: np.ndarray, found: np.ndarray) -> dict[str, Objects]:
        """What is kept of one image: a few hundred numbers, and its prediction as a PNG."""
        assert truth.shape == found.shape, (truth.shape, found.shape)
        num_classes = len(self.classes)
        counted = truth != VOID
        pairs = truth[counted].astype(np.uint16) * 256 + found[counted]
        pixels = np.bincount(pairs, minlength=1)
        cells = np.flatnonzero(pixels)
        known = (cells // 256 < num_classes) & ((cells % 256 < num_classes) | (cells % 256 == VOID))
        assert known.all(), (num_classes, [divmod(cell, 256) for cell in cells[~known].tolist()])
        tables: dict[str, Objects] = {
            "confusion": {"cell": cells, "pixels": pixels[cells]},
            "png": {"bytes": np.frombuffer(encode(found, self.classes), np.uint8)},
        }
        if self.boundary_tolerance is not None:
            near = tolerance(truth.shape, self.boundary_tolerance)
            counts = count_boundaries(truth, found, num_classes=num_classes, tolerance=near)
            tables["boundaries"] = {"counts": counts[counts.any(axis=1)]}
        return tables

    def _summed(self) -> np.ndarray:
        """Pixels by true class and found class, int64 [K, K + 1]; the last column: found as none."""
        confusion = np.zeros((256, 256), np.int64)
        for table in self._collected.by_image("confusion"):
            confusion.reshape(-1)[table["cell"]] += table["pixels"]
        num_classes = len(self.classes)
        return confusion[:num_classes, [*range(num_classes), VOID]]

    def _boundary_f1(self) -> float:
        """The mean over images of the mean over the classes that have a boundary there; NaN if none has."""
        images = [
            f1_of_boundaries(table["counts"]).mean()
            for table in self._collected.by_image("boundaries")
            if len(table["counts"])
        ]
        return float(np.mean(images)) if images else float("nan")


def _iou(confusion: np.ndarray) -> np.ndarray:
    right = np.diagonal(confusion)
    return _ratio(right, confusion.sum(axis=1) + confusion[:, :-1].sum(axis=0) - right)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """NaN where the whole is nothing."""
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)
