"""COCO's results format, as this package and most other tools write and read it.

Keypoints are pixels' indices in the files and continuous everywhere else, so 0.5 is between them.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from cvtasks.errors import DataError
from cvtasks.metrics.collected import Collected
from cvtasks.metrics.voc import box_iou
from cvtasks.types import ClassInfo, ImageId, Prediction, Truth

LARGEST = 1e7  # pixels; a coordinate beyond it is damage, and areas stay far from overflow


@dataclass(frozen=True)
class Results:
    """A results file, sorted by image."""

    predictions: dict[ImageId, Prediction]
    """Every image that was asked for; boxes and scores are float64, as the file has them."""
    notes: list[str]
    """What was left out and why, one line each."""


def read_results(path: Path, classes: ClassInfo, image_ids: Sequence[ImageId]) -> Results:
    """Boxes of the results file `path` for the images `image_ids`.

    The file holds a list of `{"image_id", "category_id", "bbox": [x, y, width, height], "score"}`, or a whole
    COCO object with such records as its `annotations`. Ids may be strings of the numbers. Records of unknown
    images or categories are left out and counted in `notes`.

    Raises DataError, with file and record, if the file cannot be read, a record is damaged, or no record at
    all belongs to the known images or categories.
    """
    rows, notes = _by_image(path, classes, image_ids, "bbox")
    return Results({i: _boxes_of(rows[i]) for i in image_ids}, notes)


def read_keypoint_results(path: Path, classes: ClassInfo, people: Sequence[Truth]) -> Results:
    """Poses of the results file `path` for the `people` of a data set, by each one's `image_id`.

    The file holds a list of `{"image_id", "category_id", "keypoints": [x, y, score, ...], "score"}`, and perhaps
    "bbox", without which a pose's box is that of its joints. `image_id` is the image's, a person's `source_id`. The
    pair of a person and a pose whose boxes overlap most comes first, then the next, until an image has no more people or
    no more poses. Poses left over go with the image's first person, behind its own. Otherwise as `read_results`.

    A prediction has float64 `keypoints` [M, J, 2], `keypoint_scores` [M, J], `boxes` [M, 4] and `scores` [M].
    """
    by_image: dict[ImageId, list[Truth]] = defaultdict(list)
    for person in people:
        by_image[source_id(person)].append(person)
    rows, notes = _by_image(path, classes, list(by_image), "keypoints")
    predictions = {}
    for image_id, own in by_image.items():
        poses = _poses_of(rows[image_id], len(classes.keypoint_names))
        chosen = _matched(np.concatenate([person["boxes"] for person in own]), poses["boxes"].numpy())
        left_over = sorted({*range(len(poses["boxes"]))} - {i for i in chosen if i is not None})
        for number, (person, index) in enumerate(zip(own, chosen, strict=True)):
            kept = ([] if index is None else [index]) + (left_over if number == 0 else [])
            predictions[person["image_id"]] = {name: values[kept] for name, values in poses.items()}
    return Results(predictions, notes)


def source_id(person: Truth) -> ImageId:
    """The id of a person's image."""
    image_id: ImageId = person["source_id" if "source_id" in person else "image_id"]
    return image_id


def write_results(path: Path, collected: Collected, classes: ClassInfo) -> None:
    """The table `predictions` of each image, with `labels`, `boxes` (XYWH) and `scores`."""
    category_ids = np.array(classes.category_ids, np.int64)
    write_records(
        path,
        [
            {"image_id": image_id, "category_id": category_id, "bbox": box, "score": score}
            for image_id, objects in zip(collected.ids(), collected.by_image("predictions"), strict=True)
            for category_id, box, score in zip(
                category_ids[objects["labels"]].tolist(),
                objects["boxes"].tolist(),
                objects["scores"].tolist(),
                strict=True,
            )
        ],
    )


def write_records(path: Path, records: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(records, separators=(",", ":")))


def coco_keypoints(keypoints: np.ndarray, third: np.ndarray) -> np.ndarray:
    """Continuous joints [N, J, 2] as COCO's x, y of a pixel's index, and `third` [N, J] (score or visibility): [N, 3J]."""
    columns = np.concatenate([keypoints - 0.5, third[:, :, None]], axis=2, dtype=np.float64)
    return columns.reshape(len(keypoints), 3 * keypoints.shape[1])


def _by_image(
    path: Path, classes: ClassInfo, image_ids: Sequence[ImageId], field: str
) -> tuple[defaultdict[ImageId, list[_Row]], list[str]]:
    """The results of each image, best first, and notes of what was left out."""
    records = _load(path)
    images = {str(i): i for i in image_ids}
    labels = {str(c): k for k, c in enumerate(classes.category_ids)}
    num_joints = len(classes.keypoint_names) if field == "keypoints" else 0
    rows: defaultdict[ImageId, list[_Row]] = defaultdict(list)
    unknown: dict[str, list[str]] = {"image_id": [], "category_id": []}
    for position, record in enumerate(records):
        where = f"results {path}: record {position}"
        if not isinstance(record, Mapping):
            raise DataError(
                f"{where} is {_short(record)}; expected an object with image_id, category_id, {field}, score"
            )
        image, category = (_id(record, key, where) for key in ("image_id", "category_id"))
        joints = _joints(record, num_joints, where) if num_joints else []
        box = _around(joints) if joints and not record.get("bbox") else _box(record, where)
        score = _number(record.get("score"), f"{where}: score")
        if image not in images:
            unknown["image_id"].append(image)
        elif category not in labels:
            unknown["category_id"].append(category)
        else:
            rows[images[image]].append(_Row(score, box, labels[category], joints))

    notes = [_note(path, key, ids, len(records)) for key, ids in unknown.items() if ids]
    if records and not rows:
        known = images if unknown["image_id"] else labels
        raise DataError(f"{notes[0]}: none is left; the data set has {_examples(list(known))}")
    for own in rows.values():
        own.sort(key=lambda row: -row.score)  # stable: equal scores keep the file's order
    return rows, notes


class _Row(NamedTuple):
    score: float
    box: list[float]
    """x, y, width, height"""
    label: int
    joints: list[float]
    """x, y and score of each, as in the file"""


def _load(path: Path) -> list[Any]:
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(
            f"results {path}: cannot be read ({error.strerror}); give a COCO results file, or a folder of label PNGs"
        ) from error
    except RecursionError as error:
        raise DataError(f"results {path}: nested too deeply; expected a list of results") from error
    except ValueError as error:  # JSON's and Unicode's errors
        raise DataError(f"results {path}: not valid JSON ({error}); write the file again") from error
    if isinstance(content, dict) and "annotations" in content:
        content = content["annotations"]
    if not isinstance(content, list):
        raise DataError(
            f"results {path}: holds {_short(content)}; expected a list, or an object with annotations"
        )
    return content


def _id(record: Mapping[str, Any], key: str, where: str) -> str:
    value = record.get(key)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise DataError(f"{where}: {key} is {_short(value)}; expected a number or a name")
    return str(value)


def _box(record: Mapping[str, Any], where: str) -> list[float]:
    box = record.get("bbox")
    if not isinstance(box, list) or len(box) != 4:
        raise DataError(f"{where}: bbox is {_short(box)}; expected [x, y, width, height]")
    values = [_number(value, f"{where}: bbox") for value in box]
    if values[2] < 0 or values[3] < 0 or max(map(abs, values)) > LARGEST:
        raise DataError(
            f"{where}: bbox is {_short(box)}; expected [x, y, width, height] in pixels, sizes not negative"
        )
    return values


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e300:
        raise DataError(f"{where} is {_short(value)}; expected a finite number")
    return float(value)


def _joints(record: Mapping[str, Any], num_joints: int, where: str) -> list[float]:
    joints = record.get("keypoints")
    if not isinstance(joints, list) or len(joints) != 3 * num_joints:
        raise DataError(f"{where}: keypoints is {_short(joints)}; expected {num_joints} times x, y, score")
    values = [_number(value, f"{where}: keypoints") for value in joints]
    if max(map(abs, values)) > LARGEST:
        raise DataError(f"{where}: keypoints is {_short(joints)}; expected x and y in pixels")
    return values


def _around(joints: list[float]) -> list[float]:
    """The box of a pose without one, as pycocotools has it."""
    x, y = joints[0::3], joints[1::3]
    return [min(x), min(y), max(x) - min(x), max(y) - min(y)]


def _boxes_of(rows: list[_Row]) -> Prediction:
    boxes = [[x, y, x + width, y + height] for x, y, width, height in (row.box for row in rows)]
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4),
        "scores": torch.tensor([row.score for row in rows], dtype=torch.float64),
        "labels": torch.tensor([row.label for row in rows], dtype=torch.int64),
    }


def _poses_of(rows: list[_Row], num_joints: int) -> Prediction:
    joints = torch.tensor([row.joints for row in rows], dtype=torch.float64).reshape(-1, num_joints, 3)
    found = _boxes_of(rows)
    return {
        "keypoints": joints[:, :, :2] + 0.5,
        "keypoint_scores": joints[:, :, 2],
        "boxes": found["boxes"],
        "scores": found["scores"],
    }


def _matched(people: np.ndarray, poses: np.ndarray) -> list[int | None]:
    """For each of the people's boxes [P, 4] its own of the poses' [M, 4], or None: the greatest overlaps first."""
    chosen: list[int | None] = [None] * len(people)
    ious = box_iou(people, poses)
    for pair in np.argsort(-ious, axis=None, kind="stable").tolist():
        person, pose = divmod(pair, len(poses))
        if chosen[person] is None and pose not in chosen:
            chosen[person] = pose
    return chosen


def _note(path: Path, key: str, ids: list[str], total: int) -> str:
    return f"results {path}: {len(ids)} of {total} records have an unknown {key} ({_examples(ids)})"


def _examples(ids: list[str]) -> str:
    names = [_short(i).strip('"') for i in dict.fromkeys(ids[:1000])]
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")


def _short(value: Any) -> str:
    text = json.dumps(value) if value is not None else "missing"
    return text if len(text) <= 60 else text[:57] + "..."
