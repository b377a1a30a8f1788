"""Top-1 and top-5 of one label an image, as ILSVRC counts them (Russakovsky et al., IJCV 2015), and each class's accuracy.

ILSVRC publishes the errors, 1 minus these accuracies.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from cvtasks.metrics.class_table import write_table
from cvtasks.metrics.collected import Collected
from cvtasks.types import ClassInfo, Prediction, Truth

GUESSES = 5


class ClassificationEvaluator:
    """An `Evaluator` for one label an image, whose guesses come best first. An image without a guess is wrong."""

    judges: ClassVar[frozenset[str]] = frozenset({"label"})

    def __init__(self, *, classes: ClassInfo) -> None:
        self.classes = classes
        self.reset()

    def reset(self) -> None:
        self._collected = Collected()
        self._confusion: np.ndarray | None = None

    def update(self, predictions: Sequence[Prediction], truth: Sequence[Truth]) -> None:
        """Adds images; of a prediction the first five guesses."""
        for prediction, labels in zip(predictions, truth, strict=True):
            self._collected.add(
                labels["image_id"],
                truth={"label": np.array([labels["label"]], np.int64)},
                predictions={
                    "labels": prediction["labels"][:GUESSES].cpu().numpy(),
                    "scores": prediction["scores"][:GUESSES].detach().cpu().double().numpy(),
                },
            )

    def state(self) -> dict[str, Any]:
        return self._collected.state()

    def merge(self, states: Iterable[dict[str, Any]]) -> None:
        """Adds what other processes collected. The order and the split leave no trace in the numbers."""
        self._collected.merge(states)

    def compute(self) -> dict[str, float]:
        """`cls/top1`, `cls/top5` (NaN with five classes or fewer, where it is always 1), `cls/mean_accuracy` of the classes
        that truth has, and `cls/accuracy/NAME` of each of these.
        """
        truth = self._collected.by_image("truth")
        guesses = np.full((len(truth), GUESSES), -1, np.int64)
        for row, found in zip(guesses, self._collected.by_image("predictions"), strict=True):
            row[: len(found["labels"])] = found["labels"]
        labels = np.array([image["label"][0] for image in truth], np.int64)
        count = len(self.classes)
        # The last column is of images without a guess.
        confusion = np.bincount(
            labels * (count + 1) + guesses[:, 0] % (count + 1), minlength=count * (count + 1)
        )
        self._confusion = confusion.reshape(count, count + 1)
        right = guesses == labels[:, None]
        shares = _shares(self._confusion).diagonal()
        there = np.flatnonzero(np.isfinite(shares))
        numbers = {
            "top1": _mean(right[:, 0]),
            "top5": _mean(right.any(axis=1)) if count > GUESSES else float("nan"),
            "mean_accuracy": _mean(shares[there]),
        }
        numbers |= {f"accuracy/{self.classes.names[k]}": float(shares[k]) for k in there.tolist()}
        return {f"cls/{name}": value for name, value in numbers.items()}

    def write(self, folder: Path) -> None:
        """`classes.csv` in `folder`: a row for each guess. Evaluated again the file gives the same numbers."""
        write_table(folder / "classes.csv", self._collected, self.classes)

    def plot_data(self) -> dict[str, Any]:
        """`confusion_matrix`: of each class's images the shares whose first guess has each class."""
        assert self._confusion is not None, "compute() comes first"
        shares = _shares(self._confusion)[:, : len(self.classes)].tolist()
        return {"confusion_matrix": {"classes": list(self.classes.names), "shares": shares, "of": "images"}}


def _shares(confusion: np.ndarray) -> np.ndarray:
    """Counts [K, K + 1] -> parts of each row, float64; NaN where it has none."""
    images = confusion.sum(axis=1, keepdims=True)
    return np.divide(confusion, images, out=np.full(confusion.shape, np.nan), where=images > 0)


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")
