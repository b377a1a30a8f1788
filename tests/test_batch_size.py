"""Which batch is tried where `loader.batch_size=auto` measures memory."""

from __future__ import annotations

from typing import Any

import pytest
from data.samples import make_sample

from cvtasks.batch_size import _worst
from cvtasks.types import ClassInfo, Sample, Truth


class Reader:
    """Images of these sizes (height, width) with so many objects."""

    provides = frozenset({"segmentation"})
    classes = ClassInfo(("a",))
    notes: list[str] = []

    def __init__(self, *images: tuple[int, int, int]) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        height, width, objects = self.images[index]
        return make_sample(index, height=height, width=width, objects=objects)

    def truth(self, index: int) -> Truth:
        height, width, objects = self.images[index]
        return {"orig_size": (height, width), "labels": [0] * objects}


def worst(reader: Reader, *, train: bool, **options: Any) -> Sample:
    node = {"_target_": "cvtasks.data.pipelines.scale_crop", "name": "scale_crop", "size": [32, 48]} | options
    return _worst({"pipeline": node}, reader, train=train)


def test_most_objects_count_first_and_then_the_most_pixels() -> None:
    assert worst(Reader((40, 60, 0), (60, 70, 0), (50, 50, 0)), train=False)["image_id"] == 1
    assert worst(Reader((40, 60, 3), (60, 70, 2)), train=False)["image_id"] == 0


@pytest.mark.parametrize(("max_size", "train", "image", "padded"), [
    (None, True, (32, 48), (32, 48)), (None, False, (60, 70), (0, 0)), (35, False, (30, 35), (35, 35)),
])  # fmt: skip
def test_training_is_tried_with_crops_and_evaluation_with_whole_images(
    max_size, train, image, padded
) -> None:
    sample = worst(Reader((60, 70, 3)), train=train, max_size=max_size)
    assert sample["image"].shape[1:] == sample["segmentation"].shape == image
    assert sample["pad_to"] == padded
    assert len(sample["boxes"]) == 3  # a crop of the worst image has all of its objects


def test_an_image_smaller_than_the_crop_is_padded() -> None:
    sample = worst(Reader((20, 100, 0)), train=True)
    assert sample["image"].shape[1:] == (20, 48)
    assert sample["pad_to"] == (32, 48)
