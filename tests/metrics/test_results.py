"""Oracle: the record that the test itself wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cvtasks.errors import DataError
from cvtasks.metrics.results import read_keypoint_results, read_results
from cvtasks.types import ClassInfo, Truth

from .scenes import CLASSES

GOOD = {"image_id": 42, "category_id": 17, "bbox": [1.5, 2, 10, 20.25], "score": 0.5}


def read(tmp_path: Path, content: Any, image_ids: tuple = (42, 43)) -> Any:
    file = tmp_path / "results.json"
    file.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return read_results(file, CLASSES, image_ids)


@pytest.mark.parametrize(
    "content",
    [
        [GOOD],
        {"images": [], "annotations": [GOOD]},
        [GOOD | {"image_id": "42", "category_id": "17"}],
        [GOOD | {"image_id": 42.0, "segmentation": []}],
    ],
    ids=["list", "coco object", "ids as strings", "ids as floats"],
)
def test_a_record_becomes_a_prediction_in_float64(tmp_path: Path, content: Any) -> None:
    results = read(tmp_path, content)
    assert results.predictions[42]["boxes"].tolist() == [[1.5, 2, 11.5, 22.25]]
    assert results.predictions[42]["scores"].tolist() == [0.5]
    assert results.predictions[42]["labels"].tolist() == [1]
    assert results.predictions[43]["boxes"].shape == (0, 4)
    assert results.notes == []


def test_predictions_are_sorted_by_score_and_ties_keep_the_order_of_the_file(tmp_path: Path) -> None:
    scores, widths = [0.2, 0.9, 0.2, 0.9], [1, 2, 3, 4]
    records = [GOOD | {"score": s, "bbox": [0, 0, w, 1]} for s, w in zip(scores, widths, strict=True)]
    found = read(tmp_path, records).predictions[42]
    assert found["scores"].tolist() == [0.9, 0.9, 0.2, 0.2]
    assert found["boxes"][:, 2].tolist() == [2, 4, 1, 3]


def test_an_empty_list_is_a_result_without_predictions(tmp_path: Path) -> None:
    assert len(read(tmp_path, []).predictions[42]["scores"]) == 0


def test_records_of_unknown_images_and_categories_are_counted(tmp_path: Path) -> None:
    content = [GOOD, GOOD | {"image_id": 7}, GOOD | {"category_id": 1}, GOOD | {"category_id": 2}]
    image_note, category_note = read(tmp_path, content).notes
    assert "1 of 4 records have an unknown image_id (7)" in image_note
    assert "2 of 4 records have an unknown category_id (1, 2)" in category_note


@pytest.mark.parametrize("key", ["image_id", "category_id"])
def test_a_file_of_another_data_set_is_refused(tmp_path: Path, key: str) -> None:
    with pytest.raises(DataError, match=rf"results\.json: 2 of 2 records have an unknown {key} \(9\)"):
        read(tmp_path, [GOOD | {key: 9}, GOOD | {key: 9}])


DAMAGED = {
    "not json": (b"{", "not valid JSON"),
    "not utf-8": (b'["\xff\xfe"]', "not valid JSON"),
    "deep": (b"[" * 100_000, "results.json: "),
    "a number": (3, "holds 3; expected a list"),
    "no annotations": ({"images": []}, "expected a list"),
    "annotations not a list": ({"annotations": 3}, "expected a list"),
    "record not an object": ([GOOD, 5], "record 1 is 5"),
    "no image": ([{k: v for k, v in GOOD.items() if k != "image_id"}], "record 0: image_id is missing"),
    "image is true": ([GOOD | {"image_id": True}], "image_id is true"),
    "category is a list": ([GOOD | {"category_id": [1]}], "category_id is [1]"),
    "no score": ([GOOD, {k: v for k, v in GOOD.items() if k != "score"}], "record 1: score is missing"),
    "score is NaN": ([GOOD | {"score": float("nan")}], "score is NaN; expected a finite number"),
    "score is text": ([GOOD | {"score": "high"}], 'score is "high"'),
    "score is a list": ([GOOD | {"score": [0.5]}], "score is [0.5]"),
    "no box": ([{k: v for k, v in GOOD.items() if k != "bbox"}], "bbox is missing"),
    "three numbers": ([GOOD | {"bbox": [1, 2, 3]}], "bbox is [1, 2, 3]; expected [x, y, width, height]"),
    "box with null": ([GOOD | {"bbox": [1, 2, None, 4]}], "bbox is missing"),
    "infinite box": ([GOOD | {"bbox": [1, 2, float("inf"), 4]}], "bbox is Infinity"),
    "huge box": ([GOOD | {"bbox": [1, 2, 1e200, 4]}], "in pixels"),
    "enormous integer": ([GOOD | {"bbox": [1, 2, 10**400, 4]}], "expected a finite number"),
    "negative size": ([GOOD | {"bbox": [1, 2, -3, 4]}], "sizes not negative"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "message"), DAMAGED.values(), ids=DAMAGED.keys())
def test_a_damaged_file_is_one_line_that_names_file_and_record(
    tmp_path: Path, content: Any, message: str
) -> None:
    with pytest.raises(DataError) as raised:
        read(tmp_path, content)
    assert message in str(raised.value)
    assert "results.json" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.json: cannot be read"):
        read_results(tmp_path / "nowhere.json", CLASSES, [1])


def test_odd_ids_do_not_break_the_line(tmp_path: Path) -> None:
    results = read(tmp_path, [GOOD, GOOD | {"image_id": "a\nb\ud800" + "c" * 500}])
    assert "\n" not in results.notes[0]
    assert len(results.notes[0]) < 400


POSES = ClassInfo(("person",), (1,), ("head", "foot"))
POSE = {"image_id": 42, "category_id": 1, "keypoints": [10, 20, 0.5, 10, 60, 0.25], "score": 0.5}


def person(name: str, x: float, image_id: int = 42) -> Truth:
    return {"image_id": name, "source_id": image_id, "boxes": np.array([[x, 20.0, x + 20, 60.0]])}


def read_poses(tmp_path: Path, content: Any, *people: Truth) -> Any:
    file = tmp_path / "results.json"
    file.write_text(json.dumps(content))
    return read_keypoint_results(file, POSES, people or (person("a", 0),))


def test_a_pose_is_half_a_pixel_further_than_the_file_says(tmp_path: Path) -> None:
    found = read_poses(tmp_path, [POSE | {"bbox": [1, 2, 30, 40]}]).predictions["a"]
    assert found["keypoints"].tolist() == [[[10.5, 20.5], [10.5, 60.5]]]
    assert found["keypoint_scores"].tolist() == [[0.5, 0.25]]
    assert found["boxes"].tolist() == [[1, 2, 31, 42]]
    assert read_poses(tmp_path, [POSE]).predictions["a"]["boxes"].tolist() == [[10, 20, 10, 60]]


def test_poses_go_to_the_people_whose_boxes_they_overlap_most_and_the_rest_to_the_first(
    tmp_path: Path,
) -> None:
    """Scores do not decide whose a pose is: the best one is nobody's."""
    boxes = {0.9: 300, 0.8: 101, 0.7: 2, 0.6: 100}
    content = [POSE | {"bbox": [x, 20, 20, 40], "score": score} for score, x in boxes.items()]
    people = (person("a", 0), person("b", 100), person("elsewhere", 0, 43))
    found = read_poses(tmp_path, content, *people).predictions
    assert found["b"]["scores"].tolist() == [0.6]
    assert found["a"]["scores"].tolist() == [0.7, 0.9, 0.8]
    assert found["elsewhere"]["keypoints"].shape == (0, 2, 2)


def test_more_people_than_poses_leave_someone_without(tmp_path: Path) -> None:
    found = read_poses(tmp_path, [POSE | {"bbox": [99, 20, 20, 40]}], person("a", 0), person("b", 100))
    assert [len(found.predictions[name]["scores"]) for name in ("a", "b")] == [0, 1]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"keypoints": [1, 2, 3]}, "expected 2 times x, y, score"),
        ({"keypoints": None}, "keypoints is missing; expected 2 times x, y, score"),
        ({"keypoints": [1, 2, 3, 4, "5", 6]}, "expected a finite number"),
        ({"keypoints": [1, 2, 3, 4, 1e9, 6]}, "expected x and y in pixels"),
        ({"bbox": [1, 2, -3, 4]}, "sizes not negative"),
        ({"score": None}, "score is missing"),
    ],
)
def test_a_damaged_pose_is_named(tmp_path: Path, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=rf"results\.json: record 1: .*{message}"):
        read_poses(tmp_path, [POSE, POSE | wrong])
