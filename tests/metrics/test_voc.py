"""Oracle: numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from cvtasks.metrics import voc

A, B, C = (0, 0, 10, 10), (20, 20, 30, 30), (50, 50, 60, 60)


def objects(*boxes: tuple, labels: int = 0, ignore: tuple = (), scores: tuple = ()) -> dict[str, np.ndarray]:
    columns = {
        "boxes": np.array(boxes, np.float64).reshape(-1, 4),
        "labels": np.full(len(boxes), labels, np.int64),
    }
    if scores or not boxes:
        columns["scores"] = np.array(scores, np.float64)
    columns["ignore"] = np.array(ignore or (False,) * len(boxes), np.bool_)
    return columns


def test_both_forms_of_ap_on_a_case_worked_by_hand() -> None:
    # In descending order: right, second of the same object (wrong), difficult (not counted), wrong, wrong,
    # right. Three objects: recall 1/3 at precision 1, recall 2/3 at precision 2/5.
    # 11 points: (4 x 1 + 3 x 0.4) / 11; all points: (1 + 0.4) / 3.
    truth = [objects(A, B), objects(A, C, ignore=(False, True))]
    predictions = [
        objects(A, A, B, scores=(0.9, 0.8, 0.4)),
        objects(C, (80, 80, 90, 90), (0, 80, 10, 90), scores=(0.7, 0.6, 0.5)),
    ]
    result = voc.evaluate(truth, predictions, num_classes=2)
    assert result.ap_11_point[0] == pytest.approx(5.2 / 11)
    assert result.ap_all_points[0] == pytest.approx(1.4 / 3)
    assert np.isnan(result.ap_11_point[1])  # no object of class 1
    assert result.map_all_points == pytest.approx(1.4 / 3)  # and it takes no part in the mean


def test_a_detection_belongs_to_what_it_overlaps_most_even_if_that_is_taken() -> None:
    # COCO would give the second detection to the other object, which it overlaps by 0.6.
    truth = [objects((0, 0, 10, 10), (0, 0, 10, 6))]
    predictions = [objects((0, 0, 10, 10), (0, 0, 10, 10), scores=(0.9, 0.8))]
    assert voc.evaluate(truth, predictions, num_classes=1).map_all_points == pytest.approx(0.5)


def test_inclusive_counts_both_corner_pixels() -> None:
    # 9 x 9 and 9 x 4: overlap 36 / 81 = 0.44; as pixels 10 x 10 and 10 x 5: 0.5, which is a hit.
    truth, predictions = [objects((0, 0, 9, 9))], [objects((0, 0, 9, 4), scores=(1.0,))]
    assert voc.evaluate(truth, predictions, num_classes=1).map_all_points == 0
    assert voc.evaluate(truth, predictions, num_classes=1, inclusive=True).map_all_points == 1


def test_another_class_at_the_same_place_is_wrong() -> None:
    truth, predictions = [objects(A)], [objects(A, labels=1, scores=(1.0,))]
    assert voc.evaluate(truth, predictions, num_classes=2).map_11_point == 0


def test_the_eleven_recalls_are_floating_point_steps() -> None:
    # 3 of 10 found, all right: recall 0.3 is below the fourth step, 0.30000000000000004.
    boxes = [(20 * i, 0, 20 * i + 10, 10) for i in range(10)]
    result = voc.evaluate([objects(*boxes)], [objects(*boxes[:3], scores=(3.0, 2.0, 1.0))], num_classes=1)
    assert result.map_11_point == pytest.approx(3 / 11)


def test_empty_sides_are_defined() -> None:
    nothing = objects()
    assert np.isnan(voc.evaluate([nothing], [nothing], num_classes=1).map_11_point)
    assert np.isnan(voc.evaluate([], [], num_classes=1).map_11_point)
    assert voc.evaluate([objects(A)], [nothing], num_classes=1).map_all_points == 0
