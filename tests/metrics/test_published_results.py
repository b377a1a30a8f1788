"""Oracle: published numbers. Runs where CVTASKS_COCO_EVAL names a folder with the cases of COCO and of
Padilla et al. (Electronics 2021); the numbers are those that their own code gives.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from cvtasks.metrics import voc
from cvtasks.metrics.detection import DetectionEvaluator
from cvtasks.metrics.pose import PoseEvaluator
from cvtasks.metrics.results import read_keypoint_results, read_results
from cvtasks.types import ClassInfo, Truth

from .scenes import truth_of

FOLDER = Path(os.environ.get("CVTASKS_COCO_EVAL", "/nowhere"))
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="CVTASKS_COCO_EVAL names no folder")

NAMES = [
    "AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large",
    "AR1", "AR10", "AR100", "AR_small", "AR_medium", "AR_large",
]  # fmt: skip


@pytest.mark.parametrize(
    ("truth_file", "results_file", "expected"),
    [
        (
            "coco_val2014_100/instances_val2014_100.json",
            "coco_val2014_100/instances_val2014_fakebbox100_results.json",
            [0.504581, 0.696973, 0.572982, 0.585626, 0.519400, 0.501398,
             0.386813, 0.593680, 0.595353, 0.639811, 0.566421, 0.564291],
        ),
        (
            "bbox_sampled100/sampled_gts_bbox_area.json",
            "bbox_sampled100/sampled_bbox_results.json",
            [0.503647, 0.696973, 0.571667, 0.593252, 0.557991, 0.489363,
             0.386813, 0.593680, 0.595353, 0.654764, 0.603130, 0.553744],
        ),
    ],
    ids=["coco_val2014_100", "bbox_sampled100"],
)  # fmt: skip
def test_coco_numbers(truth_file: str, results_file: str, expected: list[float]) -> None:
    truth = json.loads((FOLDER / truth_file).read_text())
    categories = sorted(truth["categories"], key=lambda c: c["id"])
    classes = ClassInfo(tuple(c["name"] for c in categories), tuple(c["id"] for c in categories))
    results = read_results(FOLDER / results_file, classes, [i["id"] for i in truth["images"]])
    evaluator = DetectionEvaluator(classes=classes)
    for image in truth_of(truth, classes):
        evaluator.update([results.predictions[image["image_id"]]], [image])
    numbers = evaluator.compute()
    assert [round(numbers[f"box/{name}"], 6) for name in NAMES] == expected


@pytest.mark.parametrize(
    ("iou", "inclusive", "eleven", "every"),
    [
        (0.10, True, 0.3333333, 0.3371981),
        (0.30, True, 0.2683983, 0.2456867),
        (0.50, True, 0.0303030, 0.0222222),
        (0.75, True, 0.0, 0.0),
        (0.10, False, 0.3024539, 0.2801329),
        (0.30, False, 0.2683983, 0.2253968),
        (0.50, False, 0.0303030, 0.0222222),
    ],
)
def test_voc_numbers(iou: float, inclusive: bool, eleven: float, every: float) -> None:
    truth, predictions = [], []
    for file in sorted((FOLDER / "voc_toy" / "gts").glob("*.txt")):
        for side, folder in ((truth, "gts"), (predictions, "dets")):
            lines = (file.parents[1] / folder / file.name).read_text().splitlines()
            rows = np.array([line.split()[1:] for line in lines], np.float64)
            boxes = rows[:, -4:]
            boxes[:, 2:] += boxes[:, :2]
            columns = {"boxes": boxes, "labels": np.zeros(len(rows), np.int64)}
            side.append(columns | {"scores": rows[:, 0], "ignore": np.zeros(len(rows), np.bool_)})
    result = voc.evaluate(truth, predictions, num_classes=1, iou=iou, inclusive=inclusive)
    assert result.map_11_point == pytest.approx(eleven, abs=5e-8)
    assert result.map_all_points == pytest.approx(every, abs=5e-8)


@pytest.mark.parametrize(
    ("truth_file", "results_file", "expected"),
    [
        (
            "keypoints17/gt_dataset.json",
            "keypoints17/dt_dataset.json",
            {
                "AP": 0.504884, "AP50": 0.722772, "AP75": 0.633663, "AP_medium": 0.466337, "AP_large": 0.750495,
                "AR": 0.518182, "AR50": 0.727273, "AR75": 0.636364, "AR_medium": 0.466667, "AR_large": 0.750000,
            },
        ),
        (
            "crowdpose14/example_crowdpose_val.json",
            "crowdpose14/example_crowdpose_preds.json",
            {"AP": 0.787722, "AP50": 0.988119, "AP75": 0.731436, "AR": 0.822222, "AR50": 1, "AR75": 0.777778},
        ),
    ],
    ids=["keypoints17", "crowdpose14"],
)  # fmt: skip
def test_keypoint_numbers(truth_file: str, results_file: str, expected: dict[str, float]) -> None:
    """With crowds and people without a labelled joint, and many more poses than people."""
    truth = json.loads((FOLDER / truth_file).read_text())
    (category,) = truth["categories"]
    classes = ClassInfo((category["name"],), (category["id"],), tuple(category["keypoints"]))
    people = [_person(number, annotation) for number, annotation in enumerate(truth["annotations"])]
    results = read_keypoint_results(FOLDER / results_file, classes, people)
    evaluator = PoseEvaluator(classes=classes)
    evaluator.update([results.predictions[person["image_id"]] for person in people], people)
    numbers = evaluator.compute()
    assert {name: round(numbers[f"pose/OKS_{name}"], 6) for name in expected} == expected


def _person(number: int, annotation: dict) -> Truth:
    joints = np.array(annotation["keypoints"], np.float64).reshape(1, -1, 3)
    x, y, width, height = annotation["bbox"]
    return {
        "image_id": f"{annotation['image_id']}#{number}",
        "source_id": annotation["image_id"],
        "keypoints": joints[:, :, :2] + 0.5,
        "visible": joints[:, :, 2],
        "boxes": np.array([[x, y, x + width, y + height]]),
        "area": [annotation.get("area", 0.53 * width * height)],  # CrowdPose gives none
        "ignore": [bool(annotation["iscrowd"])],
    }
