"""Reads COCO's results format, as this package and most other tools write it."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cvtasks.errors import DataError
from cvtasks.types import ClassInfo, ImageId, Prediction

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
    records = _load(path)
    images = {str(i): i for i in image_ids}
    labels = {str(c): k for k, c in enumerate(classes.category_ids)}
    rows: dict[ImageId, list[tuple[float, list[float], int]]] = defaultdict(list)
    unknown: dict[str, list[str]] = {"image_id": [], "category_id": []}
    for position, record in enumerate(records):
        where = f"results {path}: record {position}"
        if not isinstance(record, Mapping):
            raise DataError(
                f"{where} is {_short(record)}; expected an object with image_id, category_id, bbox, score"
            )
        image, category = (_id(record, key, where) for key in ("image_id", "category_id"))
        x, y, width, height = _box(record, where)
        score = _number(record.get("score"), f"{where}: score")
        if image not in images:
            unknown["image_id"].append(image)
        elif category not in labels:
            unknown["category_id"].append(category)
        else:
            rows[images[image]].append((score, [x, y, x + width, y + height], labels[category]))

    notes = [_note(path, key, ids, len(records)) for key, ids in unknown.items() if ids]
    if records and not rows:
        known = images if unknown["image_id"] else labels
        raise DataError(f"{notes[0]}: none is left; the data set has {_examples(list(known))}")
    return Results({i: _prediction(rows.get(i, [])) for i in image_ids}, notes)


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


def _prediction(rows: list[tuple[float, list[float], int]]) -> Prediction:
    rows = sorted(rows, key=lambda row: -row[0])  # stable: equal scores keep the file's order
    scores, boxes, labels = ([row[i] for row in rows] for i in range(3))
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4),
        "scores": torch.tensor(scores, dtype=torch.float64),
        "labels": torch.tensor(labels, dtype=torch.int64),
    }


def _note(path: Path, key: str, ids: list[str], total: int) -> str:
    return f"results {path}: {len(ids)} of {total} records have an unknown {key} ({_examples(ids)})"


def _examples(ids: list[str]) -> str:
    names = [_short(i).strip('"') for i in dict.fromkeys(ids[:1000])]
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")


def _short(value: Any) -> str:
    text = json.dumps(value) if value is not None else "missing"
    return text if len(text) <= 60 else text[:57] + "..."
