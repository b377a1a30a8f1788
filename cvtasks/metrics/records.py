"""What a prediction says of one image, for `predictions.json`: one function for each field."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cvtasks.metrics.label_folder import encode
from cvtasks.metrics.results import coco_keypoints
from cvtasks.types import ClassInfo, Prediction

Record = dict[str, Any]


def describe(prediction: Prediction, classes: ClassInfo, *, folder: Path, name: str) -> Record:
    """Plain values of all fields of a prediction on the host. What is an image goes into `folder`, as `name`."""
    record: Record = {}
    for field, described in FIELDS.items():
        if field in prediction:
            record |= described(prediction, classes, folder, name)
    return record


def summary(records: Sequence[Record], *, score: float) -> str:
    """One line for people. score: what the objects have at least."""
    images = f"{len(records)} image{'s' * (len(records) != 1)}"
    if any("people" in record for record in records):
        people = sum(len(record["people"]) for record in records)
        return f"{people} {'people' if people != 1 else 'person'} in {images}"
    if not any("objects" in record for record in records):
        return images
    objects = sum(len(record["objects"]) for record in records)
    return f"{objects} objects in {images} with a score of {score} or more"


def _objects(prediction: Prediction, classes: ClassInfo, folder: Path, name: str) -> Record:
    """Classes and, where there are any, boxes, as in COCO's results."""
    labels, scores = (prediction[name].tolist() for name in ("labels", "scores"))
    objects: list[Record] = [
        {"class": classes.names[label], "category_id": classes.category_ids[label], "score": score}
        for label, score in zip(labels, scores, strict=True)
    ]
    if "boxes" in prediction:
        for record, box in zip(objects, prediction["boxes"].tolist(), strict=True):
            record["bbox"] = _bbox(box)
    return {"objects": objects}


def _people(prediction: Prediction, classes: ClassInfo, folder: Path, name: str) -> Record:
    """Joints as in COCO's results: x, y (a pixel's index) and score of each."""
    joints = coco_keypoints(prediction["keypoints"].numpy(), prediction["keypoint_scores"].numpy())
    columns = (joints.tolist(), *(prediction[name].tolist() for name in ("boxes", "scores")))
    return {
        "people": [
            {"score": score, "bbox": _bbox(box), "keypoints": own}
            for own, box, score in zip(*columns, strict=True)
        ]
    }


def _bbox(box: list[float]) -> list[float]:
    return [box[0], box[1], box[2] - box[0], box[3] - box[1]]


def _label_map(prediction: Prediction, classes: ClassInfo, folder: Path, name: str) -> Record:
    """The share of each class's pixels, and the label map as a file."""
    labels = prediction["segmentation"].numpy()
    file = folder / "labels" / f"{name}.png"
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(encode(labels, classes))
    pixels = np.bincount(labels.reshape(-1), minlength=len(classes))
    shares = (pixels / labels.size).tolist()
    return {
        "labels": file.relative_to(folder).as_posix(),
        "shares": dict(zip(classes.names, shares, strict=False)),
    }


FIELDS: dict[str, Callable[[Prediction, ClassInfo, Path, str], Record]] = {
    "labels": _objects,
    "keypoints": _people,
    "segmentation": _label_map,
}
