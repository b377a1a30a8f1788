"""What an evaluator has seen, image by image, so that processes can be put together in any order."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias

import numpy as np

from cvtasks.types import ImageId

Objects: TypeAlias = dict[str, np.ndarray]
"""The objects of one image as columns: name -> [N, ...]. Every column has the same N."""


class Collected:
    """Truth and predictions by image id. An image seen twice (a distributed sampler pads) counts once."""

    def __init__(self) -> None:
        self._images: dict[ImageId, tuple[Objects, Objects]] = {}

    def add(self, image_id: ImageId, truth: Objects, predictions: Objects) -> None:
        self._images.setdefault(image_id, (truth, predictions))

    def by_image(self) -> tuple[list[ImageId], list[Objects], list[Objects]]:
        """Image ids in ascending order (numbers before names), truth and predictions in that order."""
        ids = sorted(self._images, key=lambda i: (isinstance(i, str), i))
        return ids, [self._images[i][0] for i in ids], [self._images[i][1] for i in ids]

    def state(self) -> dict[str, Any]:
        """Few, long arrays: each column of all images in one, with the number of objects of each image."""
        ids, truth, predictions = self.by_image()
        return {"image_ids": ids, "truth": _pack(truth), "predictions": _pack(predictions)}

    def merge(self, states: Iterable[dict[str, Any]]) -> None:
        for state in states:
            packed = _unpack(state["truth"]), _unpack(state["predictions"])
            for image_id, truth, predictions in zip(state["image_ids"], *packed, strict=True):
                self.add(image_id, truth, predictions)


def _pack(images: list[Objects]) -> Objects:
    if not images:
        return {"count": np.zeros(0, np.int64)}
    count = np.array([len(next(iter(objects.values()))) for objects in images])
    return {"count": count} | {name: np.concatenate([i[name] for i in images]) for name in images[0]}


def _unpack(packed: Objects) -> list[Objects]:
    count = packed["count"]
    starts = np.cumsum(count)[:-1]
    columns = {name: np.split(column, starts) for name, column in packed.items() if name != "count"}
    return [{name: parts[i] for name, parts in columns.items()} for i in range(len(count))]
