"""How often each class occurs, for losses in which a rare class counts as much as a frequent one."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from cvtasks.errors import DataError
from cvtasks.types import Reader

COUNTED = 2000
"""Label maps that are counted, at most, evenly spaced: their frequencies are those of all."""
THREADS = 8


def median_frequency(reader: Reader) -> list[float]:
    """Weights by median frequency balancing (Eigen and Fergus, ICCV 2015), one for each class.

    A class's frequency is its share of the pixels of those images in which it occurs, void left out; its weight is the
    median of all frequencies divided by it. A class that does not occur has weight 1. Raises DataError without any label.
    """
    number = len(reader.classes)
    indices = np.unique(np.linspace(0, len(reader) - 1, min(COUNTED, len(reader))).round().astype(int))

    def count(index: int) -> np.ndarray:
        return np.bincount(reader.truth(int(index))["segmentation"].ravel(), minlength=256)[:number]

    with ThreadPoolExecutor(THREADS) as pool:  # decoding and counting release the interpreter's lock
        pixels = np.array(list(pool.map(count, indices)))
    labelled = (pixels.sum(1, keepdims=True) * (pixels > 0)).sum(0)
    occurs = labelled > 0
    if not occurs.any():
        raise DataError("task.class_weights=median_frequency: no pixel of the training images has a class")
    frequency = pixels.sum(0)[occurs] / labelled[occurs]
    weights = np.ones(number)
    weights[occurs] = np.median(frequency) / frequency
    return [round(float(weight), 6) for weight in weights]
