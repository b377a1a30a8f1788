"""Where the people are in images that have no labels, as a detector's results file tells."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from cvtasks.metrics.results import read_results
from cvtasks.types import ClassInfo


def read_person_boxes(
    path: Path, images: Sequence[Path], classes: ClassInfo, *, score: float
) -> tuple[dict[Path, Tensor], list[str]]:
    """The boxes [N, 4] with at least this score of each image, and what was left out.

    path: COCO's results format (`read_results`). Its `image_id` is the image's path, its file's name, the name without
    suffix, or that name's number: 139 for 000000000139.jpg. Its `category_id` is that of `classes`.
    """
    image_of = {name: image for image in images for name in _names(image)}
    results = read_results(path, classes, list(image_of))
    boxes: dict[Path, list[Tensor]] = {image: [] for image in images}
    for name, image in image_of.items():
        found = results.predictions[name]
        boxes[image].append(found["boxes"][found["scores"] >= score])
    return {image: torch.cat(own).float() for image, own in boxes.items()}, results.notes


def _names(image: Path) -> dict[str, None]:
    """Each once."""
    number = [str(int(image.stem))] if image.stem.isdecimal() else []
    return dict.fromkeys([str(image), image.name, image.stem, *number])
