"""What an evaluator has seen, image by image, so that processes can be put together in any order."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias

import numpy as np

from cvtasks.types import ImageId

Objects: TypeAlias = dict[str, np.ndarray]
"""The objects of one image as columns: name -> [N, ...]. Every column has the same N."""


class Collected:
    """Named tables by image id, such as its truth and its predictions.

    An image seen twice (a distributed sampler pads) counts once.
    """

    def __init__(self) -> None:
        self._images: dict[ImageId, dict[str, Objects]] = {}

    def __len__(self) -> int:
        return len(self._images)

    def __contains__(self, image_id: ImageId) -> bool:
        return image_id in self._images

    def add(self, image_id: ImageId, **tables: Objects) -> None:
        """Every image has tables of the same names and columns."""
        self._images.setdefault(image_id, tables)

    def ids(self) -> list[ImageId]:
        """Ascending, numbers before names."""
        return sorted(self._images, key=lambda i: (isinstance(i, str), i))

    def by_image(self, table: str) -> list[Objects]:
        """The table of each image, in the order of `ids`."""
        return [self._images[i][table] for i in self.ids()]

    def state(self) -> dict[str, Any]:
        """Few, long arrays: each column of all images in one, with the number of objects of each image."""
        names = next(iter(self._images.values()), {})
        return {"image_ids": self.ids(), "tables": {name: _pack(self.by_image(name)) for name in names}}

    def merge(self, states: Iterable[dict[str, Any]]) -> None:
        for state in states:
            tables = {name: _unpack(packed) for name, packed in state["tables"].items()}
            for position, image_id in enumerate(state["image_ids"]):
                self.add(image_id, **{name: images[position] for name, images in tables.items()})


def _pack(images: list[Objects]) -> Objects:
    count = np.array([len(next(iter(objects.values()))) for objects in images])
    return {"count": count} | {name: np.concatenate([i[name] for i in images]) for name in images[0]}


def _unpack(packed: Objects) -> list[Objects]:
    count = packed["count"]
    starts = np.cumsum(count)[:-1]
    columns = {name: np.split(column, starts) for name, column in packed.items() if name != "count"}
    return [{name: parts[i] for name, parts in columns.items()} for i in range(len(count))]
