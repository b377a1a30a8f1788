"""Small samples with every field, and a reader of them."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from torchvision import tv_tensors

from cvtasks.errors import DataError
from cvtasks.types import ClassInfo, Sample, Truth

FLIP_INDEX = (1, 0, 2)
"""Three joints: left, right, and one in the middle."""
INSTANCE_FIELDS = ("boxes", "labels", "ignore", "masks", "keypoints", "visible")


def make_sample(
    seed: int, *, objects: int = 3, height: int = 48, width: int = 64, ellipses: bool = True
) -> Sample:
    """Noise with `objects` filled rectangles and ellipses; each box is exactly the extent of its mask."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((objects, height, width), dtype=bool)
    boxes = np.zeros((objects, 4), dtype=np.float32)
    rows, columns = np.mgrid[:height, :width] + 0.5
    for n in range(objects):
        y, x = rng.uniform(0, height), rng.uniform(0, width)
        ry, rx = rng.uniform(3, height / 2), rng.uniform(3, width / 2)
        dy, dx = np.abs(rows - y) / ry, np.abs(columns - x) / rx
        masks[n] = (dy**2 + dx**2 <= 1) if ellipses and n % 2 else np.maximum(dy, dx) <= 1
        boxes[n] = extent(torch.from_numpy(masks[n]))
    segmentation = np.full((height, width), 255, dtype=np.uint8)
    segmentation[masks.any(0)] = 1
    image = torch.from_numpy(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).permute(2, 0, 1)
    keypoints = rng.uniform((0, 0), (width, height), (objects, len(FLIP_INDEX), 2)).astype(np.float32)
    corners = np.sort(rng.uniform((0, 0), (width, height), (5, 2, 2)), axis=1).reshape(5, 4)
    return {
        "image": tv_tensors.Image(image),
        "image_id": seed,
        "orig_size": (height, width),
        "boxes": tv_tensors.BoundingBoxes(
            torch.from_numpy(boxes), format="XYXY", canvas_size=(height, width)
        ),
        "labels": torch.arange(objects),
        "ignore": torch.from_numpy(rng.random(objects) < 0.3),
        "masks": tv_tensors.Mask(torch.from_numpy(masks)),
        "keypoints": torch.from_numpy(keypoints),
        "visible": torch.from_numpy(rng.integers(0, 3, (objects, len(FLIP_INDEX)))),
        "segmentation": tv_tensors.Mask(torch.from_numpy(segmentation)),
        "label": torch.tensor(seed % 5),
        "proposals": torch.from_numpy(corners.astype(np.float32)),
    }


def extent(mask: torch.Tensor) -> list[int]:
    """The edges of the pixels of a mask, x1, y1, x2, y2."""
    rows, columns = mask.nonzero(as_tuple=True)
    return [int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1]


def plain(value: Any) -> Any:
    return value.as_subclass(torch.Tensor) if isinstance(value, torch.Tensor) else value


def assert_same(one: Sample, two: Sample, *, within: float = 0.0) -> None:
    """The same fields with the same values, coordinates within a tolerance."""
    assert one.keys() == two.keys()
    for name in one:
        a, b = plain(one[name]), plain(two[name])
        if not isinstance(a, torch.Tensor):
            assert a == b, name
        elif a.is_floating_point():
            torch.testing.assert_close(a, b, rtol=0, atol=within, msg=name)
        else:
            assert torch.equal(a, b), name


class MemoryReader:
    """`length` samples of differing sizes and numbers of objects; `bad` is the index of a damaged file."""

    provides: ClassVar[frozenset[str]] = frozenset({*INSTANCE_FIELDS, "segmentation", "label", "proposals"})

    def __init__(self, length: int, *, bad: int | None = None) -> None:
        self.length, self.bad = length, bad
        self.classes = ClassInfo(names=("a", "b", "c"), flip_index=FLIP_INDEX)
        self.notes: list[str] = []

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        if index == self.bad:
            raise DataError(f"fake: {index}.jpg: cannot be decoded")
        return make_sample(index, objects=index % 4, height=24 + index % 3, width=32 + index % 5)

    def truth(self, index: int) -> Truth:
        return {"image_id": index, "boxes": np.full((1, 4), index, dtype=np.float64)}
