"""Oracle: the results file that the test itself wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cvtasks.errors import DataError
from cvtasks.metrics.person_boxes import read_person_boxes
from cvtasks.types import ClassInfo

PERSON = ClassInfo(("person",), (1,))
IMAGES = [Path("photos/000000000139.jpg"), Path("photos/b.png"), Path("photos/empty.png")]


def read(tmp_path: Path, *records: dict[str, Any], score: float = 0.5) -> Any:
    file = tmp_path / "boxes.json"
    file.write_text(json.dumps(records))
    return read_person_boxes(file, IMAGES, PERSON, score=score)


def record(image_id: Any, x: float = 0, *, score: float = 0.9, category_id: int = 1) -> dict[str, Any]:
    return {"image_id": image_id, "category_id": category_id, "bbox": [x, 2, 10, 20], "score": score}


@pytest.mark.parametrize("image_id", [139, "139", "000000000139", "000000000139.jpg", str(IMAGES[0])])
def test_an_image_is_known_by_its_number_its_name_and_its_path(tmp_path: Path, image_id: Any) -> None:
    boxes, notes = read(tmp_path, record(image_id, 3))
    assert boxes[IMAGES[0]].tolist() == [[3, 2, 13, 22]]
    assert [len(boxes[image]) for image in IMAGES] == [1, 0, 0]
    assert notes == []


def test_other_categories_unknown_images_and_low_scores_are_left_out(tmp_path: Path) -> None:
    boxes, notes = read(
        tmp_path, record("b", 1), record("b", 2, score=0.4), record("b", 3, category_id=44), record("other")
    )
    assert boxes[IMAGES[1]].tolist() == [[1, 2, 11, 22]]
    assert ["image_id (other)" in notes[0], "category_id (44)" in notes[1]] == [True, True]


def test_a_file_for_other_images_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none is left"):
        read(tmp_path, record("other"))
